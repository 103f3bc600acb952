"""Contact sheets: for each query the frames that were found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw

from ttvr import video
from ttvr.errors import UsageError, VideoError
from ttvr.show._type import Text, shorten, typeset, wrap

MARGIN, GAP, PAD = 28, 16, 6
"""Pixels: around the sheet, between tiles, within labels."""
HEADING, TEXT, SMALL = 26, 17, 15
"""Font sizes in pixels."""
HEADING_LINES = 3
REASON_LINES = 4
BADGE = SMALL + 2 * PAD
LEAST_TILE = 120
SLIVER = 2
WIDEST, TALLEST = 16_383, 65_000
"""Pixels; WebP ends at the first in both directions, JPEG near the second, and memory earlier."""
EARLIER = 1e-3
"""Seconds; a recorded time is rounded and may lie just behind its frame."""

_PAPER, _INK, _GREY, _LINE = "#ffffff", "#1a1a1a", "#6f6f6f", "#dddddd"
_BEHIND, _MISSING, _BADGE = "#111111", "#d6d6d6", (0, 0, 0, 175)


class Shot(NamedTuple):
    """A hit to be shown: the frame of a video at a time, or its middle frame where that is None."""

    rank: int
    id: str
    path: str
    score: float
    time: float | None


class Row(NamedTuple):
    """A query: its number or name, its sentence, and its hits, best first."""

    name: str
    text: str
    shots: tuple[Shot, ...]


class Sheet(NamedTuple):
    """The picture, and why each video that cannot be shown cannot."""

    image: Image.Image
    failures: dict[str, VideoError]


class _Layout(NamedTuple):
    """Where things go, in pixels. A tile is a 16:9 picture with two lines of text below."""

    width: int
    columns: int
    tile: int

    @property
    def picture(self) -> int:
        return round(self.tile * 9 / 16)

    @property
    def tile_height(self) -> int:
        return self.picture + 2 * PAD + TEXT + SMALL + GAP

    def height(self, heading: Sequence[Text], shots: int) -> int:
        tiles = -(-shots // self.columns) * self.tile_height or TEXT + GAP
        return SMALL + PAD + len(heading) * (HEADING + PAD) + PAD + tiles + GAP


def contact_sheet(
    rows: Sequence[Row],
    *,
    width: int = 1600,
    columns: int = 5,
    tallest: int = TALLEST,
    on_step: Callable[[bool], None] = lambda is_failed: None,
) -> Sheet:
    """Draw the hits of each query under its sentence.

    A video that is missing or does not decode becomes a grey tile that says so.

    Args:
        rows: the queries.
        width: of the sheet, pixels, at most WIDEST.
        columns: tiles side by side; more hits go on in the next line.
        tallest: the sheet may be, pixels.
        on_step: called after each hit with whether its video failed.

    Raises:
        UsageError: the sheet would be too wide or too tall, or its tiles too small; told before
            any video is opened.
        RequirementError: there is no ffmpeg.
    """
    if width > WIDEST:
        raise UsageError(f"a sheet of {width} pixels is too wide, at most {WIDEST} go")
    layout = _Layout(width, columns, (width - 2 * MARGIN - (columns - 1) * GAP) // columns)
    if layout.tile < LEAST_TILE:
        raise UsageError(
            f"{columns} columns in {width} pixels make tiles of {layout.tile}, at least "
            f"{LEAST_TILE} are needed; take a greater --width or fewer --columns"
        )
    wide = width - 2 * MARGIN
    headings = [wrap(typeset(row.text), HEADING, wide, lines=HEADING_LINES) for row in rows]
    heights = [layout.height(h, len(row.shots)) for h, row in zip(headings, rows, strict=True)]
    height = sum(heights) + MARGIN
    if height > tallest:
        other = ", or write a .png" if tallest < TALLEST else ""
        raise UsageError(
            f"{len(rows)} queries make a sheet of {height} pixels, at most {tallest} go; "
            f"show fewer queries, or fewer hits with -k{other}"
        )
    sheet = Image.new("RGB", (width, height), _PAPER)
    failures: dict[str, VideoError] = {}
    top = MARGIN
    for row, heading, height in zip(rows, headings, heights, strict=True):
        at = _draw_heading(sheet, row, heading, top)
        for shot, left, upper in _places(row.shots, layout, at):
            picture = _picture(shot, layout, failures)
            _draw_tile(sheet, shot, picture, left, upper)
            on_step(shot.path in failures)
        top += height
    return Sheet(sheet, failures)


def frame_at(path: str | Path, time: float | None) -> Image.Image:
    """The frame of a video that is shown at a time in seconds; None is its middle frame.

    Raises:
        VideoError: there is none.
        RequirementError: there is no ffmpeg.
    """
    if not Path(path).exists():
        raise VideoError("invalid_data", "no such file")
    if time is None:
        frames = video.read_frames(path, lambda n: [n // 2])
    else:
        start = max(0.0, time - EARLIER)
        frames = video.read_frames(path, lambda n: [0], start=start, end=start + 1)
    return Image.fromarray(frames.pixels[0])


def _places(shots: Sequence[Shot], layout: _Layout, top: int) -> Iterator[tuple[Shot, int, int]]:
    """Each hit with the left and upper edge of its tile."""
    for number, shot in enumerate(shots):
        line, column = divmod(number, layout.columns)
        yield shot, MARGIN + column * (layout.tile + GAP), top + line * layout.tile_height


def _picture(shot: Shot, layout: _Layout, failures: dict[str, VideoError]) -> Image.Image:
    """The thumbnail of a hit, or a grey picture that says why there is none."""
    box = Image.new("RGB", (layout.tile, layout.picture), _BEHIND)
    try:
        if shot.path in failures:
            raise failures[shot.path]
        frame = frame_at(shot.path, shot.time)
    except VideoError as error:
        failures[shot.path] = error
        box.paste(_MISSING, (0, 0, *box.size))
        draw = ImageDraw.Draw(box)
        reason = typeset(f"{error.code.replace('_', ' ')}: {error.detail}")
        lines = wrap(reason, SMALL, box.width - 4 * PAD, lines=REASON_LINES)
        upper = (box.height - len(lines) * (SMALL + PAD)) // 2
        for number, line in enumerate(lines):
            place = (box.width / 2, upper + number * (SMALL + PAD))
            line.draw(draw, place, SMALL, fill=_GREY, anchor="ma")
        return box
    scale = min(box.width / frame.width, box.height / frame.height)
    size = [max(1, round(side * scale)) for side in frame.size]
    # Of the same shape but for rounding: no slivers of the background.
    size = [
        full if full - side <= SLIVER else side for full, side in zip(box.size, size, strict=True)
    ]
    frame = frame.resize(size, Image.Resampling.LANCZOS)
    box.paste(frame, ((box.width - frame.width) // 2, (box.height - frame.height) // 2))
    return box


def _draw_heading(sheet: Image.Image, row: Row, lines: Sequence[Text], top: int) -> int:
    """Draw name and sentence of a query; returns where its tiles begin."""
    draw = ImageDraw.Draw(sheet)
    if top > MARGIN:
        edge = top - GAP
        draw.line((MARGIN, edge, sheet.width - MARGIN, edge), fill=_LINE)
    name = shorten(typeset(f"query {row.name}"), SMALL, sheet.width - 2 * MARGIN)
    name.draw(draw, (MARGIN, top), SMALL, fill=_GREY)
    top += SMALL + PAD
    for line in lines:
        line.draw(draw, (MARGIN, top), HEADING, fill=_INK)
        top += HEADING + PAD
    if not row.shots:
        Text("no hits").draw(draw, (MARGIN, top + PAD), TEXT, fill=_GREY)
    return top + PAD


def _draw_tile(sheet: Image.Image, shot: Shot, picture: Image.Image, left: int, top: int) -> None:
    """Paste a thumbnail with rank and time on it, id and score below."""
    sheet.paste(picture, (left, top))
    draw = ImageDraw.Draw(sheet, "RGBA")
    right, bottom = left + picture.width - 1, top + picture.height - 1
    _badge(draw, Text(str(shot.rank)), left=left, bottom=top + BADGE)
    time = Text("middle" if shot.time is None else _clock(shot.time))
    _badge(draw, time, left=right - time.width(SMALL) - 2 * PAD, bottom=bottom)
    below = top + picture.height + PAD
    name = shorten(typeset(shot.id), TEXT, picture.width)
    name.draw(draw, (left, below), TEXT, fill=_INK)
    score = Text(f"score {shot.score:.4f}")
    score.draw(draw, (left, below + TEXT + PAD), SMALL, fill=_GREY)


def _badge(draw: ImageDraw.ImageDraw, text: Text, *, left: float, bottom: float) -> None:
    wide = text.width(SMALL) + 2 * PAD
    draw.rectangle((left, bottom - BADGE, left + wide, bottom), fill=_BADGE)
    middle = (left + wide / 2, bottom - BADGE / 2)
    text.draw(draw, middle, SMALL, fill="white", anchor="mm")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"
