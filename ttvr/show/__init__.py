"""Pictures of results: contact sheets of what a ranking found, and what token clustering keeps.

What a model keeps is collected in `ttvr.show.centers`, which alone needs torch.
"""

from ttvr.show._figure import Segmentation, figure
from ttvr.show._map import Map
from ttvr.show._sheet import TALLEST, WIDEST, Row, Sheet, Shot, contact_sheet, frame_at

__all__ = [
    "TALLEST",
    "WIDEST",
    "Map",
    "Row",
    "Segmentation",
    "Sheet",
    "Shot",
    "contact_sheet",
    "figure",
    "frame_at",
]
