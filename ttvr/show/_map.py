"""Tokens of a segment as points on a plane, in the colors of their clusters."""

from __future__ import annotations

import colorsys
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ttvr.show._sheet import _GREY, _INK, _LINE, _PAPER, PAD, SMALL
from ttvr.show._type import Text, shorten

CAPTION = SMALL + 2 * PAD
"""Pixels of the line below a map."""

_FINER = 3  # Pillow draws circles without smoothing: drawn so many times larger, then scaled down
_INSET, _POINT, _CENTER = 14, 3, 6
_GOLDEN = 0.381966
_STRENGTHS = ((0.85, 0.82), (0.55, 0.95), (0.95, 0.55))


class Map(NamedTuple):
    """Tokens of a segment on a plane.

    Attributes:
        places: [N, 2] float64.
        cluster: [N] int64, 0..K-1.
        is_center: [N] bool.
        share: of the tokens' variance that the plane shows, 0..1.
    """

    places: np.ndarray
    cluster: np.ndarray
    is_center: np.ndarray
    share: float


def color(cluster: int) -> tuple[int, int, int]:
    """RGB of a cluster; neighbors in number differ in hue, and in strength."""
    saturation, value = _STRENGTHS[cluster % len(_STRENGTHS)]
    rgb = colorsys.hsv_to_rgb(cluster * _GOLDEN % 1.0, saturation, value)
    return tuple(round(255 * part) for part in rgb)


def draw_map(points: Map, width: int, height: int, *, name: str) -> Image.Image:
    """Draw a map with a line of text below it: [height + CAPTION, width] pixels.

    Each token is joined to its center, which has a black rim. Both axes have the same scale.
    """
    size = (width * _FINER, height * _FINER)
    fine = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(fine)
    places = _fitted(points.places, *size)
    centers = {int(points.cluster[i]): i for i in np.flatnonzero(points.is_center)}
    for place, cluster in zip(places, points.cluster.tolist(), strict=True):
        if cluster in centers:
            faint = tuple((part + 2 * 255) // 3 for part in color(cluster))
            draw.line((*place, *places[centers[cluster]]), fill=faint, width=_FINER)
    for order in (False, True):  # centers on top
        for i in np.flatnonzero(points.is_center == order):
            radius = (_CENTER if order else _POINT) * _FINER
            x, y = places[i]
            draw.ellipse(
                (x - radius, y - radius, x + radius, y + radius),
                fill=color(int(points.cluster[i])),
                outline=_INK if order else None,
                width=2 * _FINER,
            )
    whole = Image.new("RGB", (width, height + CAPTION), _PAPER)
    whole.paste(fine.resize((width, height), Image.Resampling.LANCZOS))
    draw = ImageDraw.Draw(whole)
    draw.rectangle((0, 0, width - 1, height - 1), outline=_LINE)
    label = f"{name}: {points.share:.0%} of the variance"
    text = shorten(Text(label), SMALL, width, keep_end=False)
    text.draw(draw, (width / 2, height + PAD), SMALL, fill=_GREY, anchor="ma")
    return whole


def _fitted(places: np.ndarray, width: int, height: int) -> np.ndarray:
    """Places [N, 2] in pixels: centered, up is positive, a margin around them."""
    low, high = places.min(axis=0), places.max(axis=0)
    room = np.array((width, height), float) - 2 * _INSET * _FINER
    extent = high - low
    scales = [space / side for space, side in zip(room, extent, strict=True) if side > 0]
    offset = (places - (low + high) / 2) * (min(scales) if scales else 0.0)
    return np.array((width, height)) / 2 + offset * (1, -1)
