"""Weights of frames as a picture: the frames, and under them a row of cells per word.

After Jing et al., "TC-MGC" (2025), Figure 11.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ttvr.errors import UsageError
from ttvr.show._figure import _caption, _draw_label, _pieces, _scaled
from ttvr.show._sheet import (
    _GREY,
    _INK,
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

LEAST_FRAME, LARGEST_FRAME = 56, 240
"""Pixels of a frame's side; a weight can be read on a cell of the least."""
BETWEEN, EDGE = 6, 1
"""Pixels between frames, and between cells."""
LEAST_GUTTER, LARGEST_GUTTER = 60, 180
"""Pixels on the left, for the words."""
ROW = TEXT + 2 * PAD
HEAD = TEXT + 3 * (SMALL + PAD) + 2 * PAD

_FULL = (8, 69, 148)
_BRIGHT_BELOW, _OUTLINE = 0.5, 0.25


class Attention(NamedTuple):
    """How much each frame counts for a sentence.

    Attributes:
        sentence: [S], of S frames or segments, for the whole of it.
        words: [L, S], for each token; None where a head does not tell them apart.
        tokens: L texts of tokens; those in brackets are no words.
        what: what the numbers are.
    """

    sentence: np.ndarray
    words: np.ndarray | None
    tokens: tuple[str, ...]
    what: str


class _Group(NamedTuple):
    """Rows of cells that have a darkest of their own: labels, and values [R, S]."""

    name: str
    labels: tuple[str, ...]
    values: np.ndarray

    @property
    def range(self) -> tuple[float, float]:
        return min(0.0, float(self.values.min())), float(self.values.max())


class _Layout(NamedTuple):
    """Where things go, in pixels: `across` frames of `side` beside a gutter, `rows` under them."""

    frames: int
    gutter: int
    across: int
    side: int
    rows: int

    @property
    def line_height(self) -> int:
        cells = self.rows * ROW + PAD * (self.rows > 1)
        return self.side + SMALL + 2 * PAD + cells + GAP

    def place(self, frame: int) -> tuple[int, int]:
        line, column = divmod(frame, self.across)
        left = MARGIN + self.gutter + column * (self.side + BETWEEN)
        return left, MARGIN + HEAD + line * self.line_height


def attention_figure(
    pixels: np.ndarray,
    times: Sequence[float],
    found: Attention,
    *,
    frames: int,
    title: str,
    about: str,
    width: int = 1600,
    tallest: int = TALLEST,
) -> Image.Image:
    """Draw the frames in a row and, under each, its weight for the sentence and for each word.

    The darker a cell, the larger its number; white is 0, or the least where that is below 0. The
    sentence and the words have each their own darkest. Where segments stand for several frames a
    cell is as wide as they are. Frames go on in a next line where they would be too small.

    Args:
        pixels: [t, size, size, 3] uint8 RGB, as the model takes them; frames t..T-1 are padding.
        times: [t] seconds.
        found: of S frames or segments; S divides T.
        frames: T.
        title: the sentence.
        about: the video and the head.
        width: of the picture, pixels, at most WIDEST.
        tallest: the picture may be, pixels.

    Raises:
        UsageError: it would be too wide or too tall, or not a single frame fits.
    """
    groups = [_Group("sentence", ("sentence",), found.sentence[None])]
    if found.words is not None:
        groups.append(_Group("words", found.tokens, found.words))
    layout = _layout(width, frames, [label for group in groups for label in group.labels])
    lines = -(-frames // layout.across)
    height = 2 * MARGIN - GAP + HEAD + lines * layout.line_height
    if height > tallest:
        raise UsageError(
            f"{frames} frames with {layout.rows} rows each make a picture of {height} pixels, at "
            f"most {tallest} go; take a greater --width"
        )
    image = Image.new("RGB", (width, height), _PAPER)
    if len(pixels) < frames:
        about += f"; the last {frames - len(pixels)} of {frames} frames are padding"
    _draw_label(image, MARGIN, title, about)
    _draw_legend(image, groups, found.what, MARGIN + TEXT + SMALL + 2 * PAD)
    shown = _scaled(pixels, frames, layout)
    labels = [_clock(float(time)) for time in times] + ["padding"] * (frames - len(times))
    for t, (picture, label) in enumerate(zip(shown, labels, strict=True)):
        left, top = layout.place(t)
        image.paste(picture, (left, top))
        _caption(image, (label,), left, left + layout.side, top + layout.side + PAD // 2)
    for start in range(0, frames, layout.across):
        _, top = layout.place(start)
        top += layout.side + SMALL + 2 * PAD
        for group in groups:
            _draw_rows(image, group, layout, top, frames=range(start, frames)[: layout.across])
            top += len(group.labels) * ROW + PAD
    return image


def _layout(width: int, frames: int, names: Sequence[str]) -> _Layout:
    """As many frames side by side as there can be, as large as they can be.

    Raises:
        UsageError: the width is out of range.
    """
    if width > WIDEST:
        raise UsageError(f"a picture of {width} pixels is too wide, at most {WIDEST} go")
    widest = max(typeset(name).width(TEXT) for name in names) + 2 * PAD
    gutter = round(min(max(widest, LEAST_GUTTER), LARGEST_GUTTER))
    wide = width - 2 * MARGIN - gutter
    fitting = (wide + BETWEEN) // (LEAST_FRAME + BETWEEN)
    if fitting < 1:
        least = LEAST_FRAME + 2 * MARGIN + gutter
        raise UsageError(f"{width} pixels are too narrow for a frame; take a --width of {least}")
    across = -(-frames // -(-frames // fitting))  # lines of about the same length
    side = min((wide + BETWEEN) // across - BETWEEN, LARGEST_FRAME)
    return _Layout(frames, gutter, across, side, len(names))


def _draw_legend(image: Image.Image, groups: Sequence[_Group], what: str, top: int) -> None:
    ranges = [f"{group.name} {' to '.join(map(_written, group.range))}" for group in groups]
    draw, wide = ImageDraw.Draw(image), image.width - 2 * MARGIN
    for line in (what, f"white to dark: {', '.join(ranges)}"):
        shorten(typeset(line), SMALL, wide).draw(draw, (MARGIN, top), SMALL, fill=_GREY)
        top += SMALL + PAD


def _draw_rows(
    image: Image.Image, group: _Group, layout: _Layout, top: int, *, frames: range
) -> None:
    """The cells of one line of frames."""
    draw = ImageDraw.Draw(image)
    least, most = group.range
    part = (group.values - least) / (most - least or 1.0)
    S = part.shape[1]
    for row, label in enumerate(group.labels):
        upper = top + row * ROW
        middle = upper + ROW / 2
        text = shorten(typeset(label), TEXT, layout.gutter - 2 * PAD)
        fill = _GREY if label.startswith("[") and label.endswith("]") else _INK
        text.draw(draw, (MARGIN, middle), TEXT, fill=fill, anchor="lm")
        for segment, start, stop in _pieces(layout.frames, S, layout.across):
            if start not in frames:
                continue
            left, right = layout.place(start)[0], layout.place(stop - 1)[0] + layout.side
            box = (left, upper + EDGE, right - 1, upper + ROW - 1 - EDGE)
            draw.rectangle(box, fill=_shade(part[row, segment]), outline=_shade(_OUTLINE))
            ink = _INK if part[row, segment] < _BRIGHT_BELOW else _PAPER
            number = Text(_written(group.values[row, segment]))
            number.draw(draw, ((left + right) / 2, middle), SMALL, fill=ink, anchor="mm")


def _shade(part: float) -> tuple[int, int, int]:
    """From white (0) to the full color (1)."""
    red, green, blue = (round(255 + part * (full - 255)) for full in _FULL)
    return red, green, blue


def _written(number: float) -> str:
    """With three decimals, and no minus before zeros alone."""
    return f"{round(float(number), 3) + 0.0:.3f}"
