"""Pictures of results: contact sheets of what a ranking found."""

from ttvr.show._sheet import TALLEST, WIDEST, Row, Sheet, Shot, contact_sheet, frame_at

__all__ = ["TALLEST", "WIDEST", "Row", "Sheet", "Shot", "contact_sheet", "frame_at"]
