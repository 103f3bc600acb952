"""Token clustering as a picture: frames with the patches that are kept, one row per plan.

After Zhao et al., "CenterCLIP" (SIGIR 2022): Figure 5, and Figure 1 where maps are given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isqrt
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ttvr.errors import UsageError
from ttvr.show._map import CAPTION, Map, color, draw_map
from ttvr.show._sheet import (
    _GREY,
    _INK,
    _LINE,
    _PAPER,
    GAP,
    MARGIN,
    PAD,
    SMALL,
    TALLEST,
    TEXT,
    WIDEST,
    _clock,
)
from ttvr.show._type import Text, shorten, typeset
from ttvr.wording import counted

LEAST_CELL = 12
"""Pixels of a patch's side, so that one can be told from the next."""
BETWEEN, EDGE = 14, 4
"""Pixels at least between frames, and of a segment around its frames."""
LARGEST_FRAME = 320
LABEL = TEXT + SMALL + 3 * PAD
LEAST_MAP, LARGEST_MAP = 240, 400
RIM = 3
"""Pixels of a kept patch in the color of its cluster, or of the line around it."""

_SEGMENT, _DIMMED, _TINTED = "#e4e7ec", 0.22, 0.3
_VEIL, _PADDING = (226, 229, 234), (140, 140, 140)


class Segmentation(NamedTuple):
    """What a plan keeps of a video.

    Attributes:
        plan: as `--reduce` takes it.
        origin: [S, K] int64, the patch t*P+p of each token that is left of a segment.
        token: [T, P] int64, the token s*K+k whose cluster a patch is in; -1: in none.
        maps: of each segment, or none at all.
    """

    plan: str
    origin: np.ndarray
    token: np.ndarray
    maps: tuple[Map, ...] = ()

    def kept(self) -> np.ndarray:
        """[T, P] bool, the patches that are left."""
        flags = np.zeros(self.token.size, bool)
        flags[self.origin] = True
        return flags.reshape(self.token.shape)


class _Layout(NamedTuple):
    """Where frames go, in pixels: `across` of them side by side, `grid` patches of `cell` each."""

    width: int
    across: int
    grid: int
    cell: int
    pitch: int

    @property
    def side(self) -> int:
        return self.grid * self.cell

    @property
    def line_height(self) -> int:
        return self.side + 2 * EDGE + SMALL + 2 * PAD

    def left(self, column: int) -> int:
        return MARGIN + EDGE + column * self.pitch

    def maps(self, count: int) -> tuple[int, int]:
        """How many maps of a plan go side by side, and the width of one."""
        wide = self.width - 2 * MARGIN
        across = min(count, max(1, (wide + BETWEEN) // (LEAST_MAP + BETWEEN)))
        return across, min(LARGEST_MAP, (wide + BETWEEN) // across - BETWEEN)

    def height(self, frames: int, maps: int) -> int:
        tall = LABEL + -(-frames // self.across) * self.line_height + GAP
        if maps:
            across, wide = self.maps(maps)
            tall += -(-maps // across) * _map_pitch(wide)
        return tall


def figure(
    pixels: np.ndarray,
    times: Sequence[float],
    rows: Sequence[Segmentation],
    *,
    title: str,
    width: int = 1600,
    tallest: int = TALLEST,
) -> Image.Image:
    """Draw the frames, and under them once per plan what it keeps of them.

    Frames stand under each other, so that plans can be compared. Kept patches are as they are,
    the others dimmed; with maps, both have the color of their cluster. Frames are scaled so that a
    patch has whole pixels, and go on in a next line where they would be too small.

    Args:
        pixels: [t, size, size, 3] uint8 RGB, as the model takes them; frames t..T-1 are padding.
        times: [t] seconds.
        rows: what plans keep of them, at least one, all of T frames and P patches.
        title: what is shown.
        width: of the picture, pixels, at most WIDEST.
        tallest: the picture may be, pixels.

    Raises:
        UsageError: it would be too wide or too tall, or not a single frame fits.
    """
    T, P = rows[0].token.shape
    layout = _layout(width, T, isqrt(P))
    heights = [layout.height(T, len(row.maps)) for row in rows]
    first = layout.height(T, 0)
    height = 2 * MARGIN - GAP + first + sum(heights)
    if height > tallest:
        raise UsageError(
            f"{len(rows)} plans of {T} frames make a picture of {height} pixels, at most {tallest} "
            "go; show fewer plans or frames, or take a greater --width"
        )
    image = Image.new("RGB", (width, height), _PAPER)
    frames = _scaled(pixels, T, layout)
    about = f"{counted(T, 'frame')} of {isqrt(P)} x {isqrt(P)} patches"
    if len(pixels) < T:
        about += f", the last {T - len(pixels)} of them padding"
    _draw_label(image, MARGIN, title, about)
    labels = [_clock(float(time)) for time in times] + ["padding"] * (T - len(times))
    for t, label in enumerate(labels):
        left, top = _place(layout, t, MARGIN + LABEL)
        image.paste(frames[t], (left, top))
        _caption(image, (label,), left, left + layout.side, top + layout.side + EDGE)
    top = MARGIN + first
    for row, tall in zip(rows, heights, strict=True):
        ImageDraw.Draw(image).line((MARGIN, top - PAD, width - MARGIN, top - PAD), fill=_LINE)
        _draw_row(image, row, frames, layout, top + PAD)
        top += tall
    return image


def _layout(width: int, frames: int, grid: int) -> _Layout:
    """As many frames side by side as there can be, as large as they can be.

    Raises:
        UsageError: the width is out of range.
    """
    if width > WIDEST:
        raise UsageError(f"a picture of {width} pixels is too wide, at most {WIDEST} go")
    wide = width - 2 * MARGIN - 2 * EDGE
    fitting = (wide + BETWEEN) // (LEAST_CELL * grid + BETWEEN)
    if fitting < 1:
        least = LEAST_CELL * grid + 2 * MARGIN + 2 * EDGE
        raise UsageError(f"{width} pixels are too narrow for a frame; take a --width of {least}")
    across = -(-frames // -(-frames // fitting))  # lines of about the same length
    cell = ((wide + BETWEEN) // across - BETWEEN) // grid
    cell = min(cell, max(LEAST_CELL, LARGEST_FRAME // grid))
    spare = wide - across * cell * grid
    pitch = cell * grid + min(spare // max(1, across - 1), 2 * BETWEEN)
    return _Layout(width, across, grid, cell, pitch)


def _map_pitch(wide: int) -> int:
    return wide * 3 // 4 + CAPTION + 2 * PAD


def _place(layout: _Layout, frame: int, top: int) -> tuple[int, int]:
    line, column = divmod(frame, layout.across)
    return layout.left(column), top + EDGE + line * layout.line_height


def _scaled(pixels: np.ndarray, frames: int, layout: _Layout) -> list[Image.Image]:
    """Frames of whole pixels per patch; padding is grey, as which the model sees it."""
    size = (layout.side, layout.side)
    is_larger = layout.side >= pixels.shape[1]
    how = Image.Resampling.NEAREST if is_larger else Image.Resampling.BOX
    shown = [Image.fromarray(frame).resize(size, how) for frame in pixels]
    return shown + [Image.new("RGB", size, _PADDING)] * (frames - len(shown))


def _draw_label(image: Image.Image, top: int, name: str, about: str) -> None:
    draw, wide = ImageDraw.Draw(image), image.width - 2 * MARGIN
    shorten(typeset(name), TEXT, wide).draw(draw, (MARGIN, top), TEXT, fill=_INK)
    below = top + TEXT + PAD
    shorten(Text(about), SMALL, wide).draw(draw, (MARGIN, below), SMALL, fill=_GREY)


def _draw_row(
    image: Image.Image,
    row: Segmentation,
    frames: Sequence[Image.Image],
    layout: _Layout,
    top: int,
) -> None:
    """What one plan keeps: label, segments, maps."""
    (S, K), T = row.origin.shape, len(frames)
    kept = row.kept()
    about = f"{_count(S, 'segment')} of {_count(T // S, 'frame')}: "
    about += f"{kept.sum()} of {kept.size} tokens kept"
    _draw_label(image, top, row.plan, about)
    top += LABEL
    draw = ImageDraw.Draw(image)
    for segment, start, stop in _pieces(T, S, layout.across):
        left, upper = _place(layout, start, top)
        right = left + (stop - start - 1) * layout.pitch + layout.side
        lower = upper + layout.side + EDGE
        panel = (left - EDGE, upper - EDGE, right + EDGE - 1, lower + SMALL + PAD)
        draw.rounded_rectangle(panel, EDGE, fill=_SEGMENT)
        count = len(np.unique(row.origin[segment]))
        labels = (f"segment {segment + 1}: {count} kept", f"{segment + 1}: {count}")
        _caption(image, labels, left, right, lower)
    colors = [color(token % K) for token in range(S * K)] if row.maps else []
    for t, frame in enumerate(frames):
        picture = _chosen(frame, kept[t], row.token[t], colors, layout)
        image.paste(picture, _place(layout, t, top))
    top += -(-T // layout.across) * layout.line_height
    across, wide = layout.maps(max(1, len(row.maps)))
    for segment, points in enumerate(row.maps):
        line, column = divmod(segment, across)
        drawn = draw_map(points, wide, wide * 3 // 4, name=f"segment {segment + 1}")
        left = MARGIN + column * (wide + BETWEEN)
        image.paste(drawn, (left, top + PAD + line * _map_pitch(wide)))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _pieces(frames: int, segments: int, across: int) -> Iterator[tuple[int, int, int]]:
    """Segments as (segment, first frame, behind the last), cut where a line ends."""
    length = frames // segments
    for segment in range(segments):
        start, end = segment * length, (segment + 1) * length
        while start < end:
            stop = min(end, (start // across + 1) * across)
            yield segment, start, stop
            start = stop


def _caption(image: Image.Image, labels: Sequence[str], left: int, right: int, top: int) -> None:
    """The first label that fits, below something."""
    wide = right - left
    fitting = (text for label in labels if (text := Text(label)).width(SMALL) <= wide)
    text = next(fitting, None) or shorten(Text(labels[-1]), SMALL, wide)
    text.draw(ImageDraw.Draw(image), ((left + right) / 2, top), SMALL, fill=_GREY, anchor="ma")


def _chosen(
    frame: Image.Image,
    kept: np.ndarray,
    tokens: np.ndarray,
    colors: Sequence[tuple[int, int, int]],
    layout: _Layout,
) -> Image.Image:
    """A frame whose patches are dimmed but for the kept ones [P]; tinted if there are colors."""
    grid, cell = layout.grid, layout.cell
    veil = np.full((len(tokens), 3), _VEIL, np.float32)
    if colors:
        has = tokens >= 0
        tint = np.array(colors, np.float32)[tokens[has]]
        veil[has] = _TINTED * tint + (1 - _TINTED) * veil[has]
    veil = veil.reshape(grid, grid, 3).repeat(cell, 0).repeat(cell, 1)
    shown = np.asarray(frame, np.float32)
    is_kept = kept.reshape(grid, grid, 1).repeat(cell, 0).repeat(cell, 1)
    dimmed = _DIMMED * shown + (1 - _DIMMED) * veil
    picture = Image.fromarray(np.where(is_kept, shown, dimmed).round().astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for patch in np.flatnonzero(kept):
        upper, left = (int(place) * cell for place in divmod(patch, grid))
        box = (left, upper, left + cell - 1, upper + cell - 1)
        if colors:
            draw.rectangle(box, outline=colors[tokens[patch]], width=RIM)
        draw.rectangle(box, outline=_INK)
    return picture
