"""Pictures of results: what a ranking found, what token clustering keeps, what a head looks at.

What a model keeps and looks at is collected in `ttvr.show.centers` and `ttvr.show.attention`, which
alone need torch.
"""

from ttvr.show._attention import Attention, attention_figure
from ttvr.show._figure import Segmentation, figure
from ttvr.show._map import Map
from ttvr.show._sheet import TALLEST, WIDEST, Row, Sheet, Shot, contact_sheet, frame_at

__all__ = [
    "TALLEST",
    "WIDEST",
    "Attention",
    "Map",
    "Row",
    "Segmentation",
    "Sheet",
    "Shot",
    "attention_figure",
    "contact_sheet",
    "figure",
    "frame_at",
]
