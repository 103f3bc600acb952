"""Pictures of results: contact sheets of what a ranking found."""

from ttvr.show._sheet import Row, Sheet, Shot, contact_sheet, frame_at

__all__ = ["Row", "Sheet", "Shot", "contact_sheet", "frame_at"]
