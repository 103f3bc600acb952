"""What is known of a video, from its headers and from what decoded, and how well it did."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import NamedTuple

from ttvr.errors import VideoError
from ttvr.video import _avi, _decode, _fragments, _images, _isobmff
from ttvr.video._fragments import Fragments
from ttvr.video._isobmff import Track
from ttvr.video._types import Status, VideoInfo

EARLY_SECONDS, EARLY_PART = 1.0, 0.1  # a video that ends earlier than both before its end: partial
_FROM_ZERO = ("matroska", "flv")  # containers whose duration is the time of the end


class Tables(NamedTuple):
    """What the tables of the file itself tell: of every frame, or at least of the length."""

    track: Track | None
    fragments: Fragments | None = None
    avi_seconds: float | None = None

    def is_exact(self) -> bool:
        return self.track is not None and self.track.is_simple


def read_tables(path: Path) -> Tables:
    """What the file's own tables tell."""
    tables = Tables(_isobmff.read(path))
    if tables.is_exact():
        return tables
    return tables._replace(fragments=_fragments.read(path), avi_seconds=_avi.seconds(path))


def is_for_pillow(path: Path) -> bool:
    """Whether Pillow reads it, after all has been refused that nothing can read.

    Raises:
        VideoError: empty, or invalid_data for what is missing, unreadable, or no file.
    """
    try:
        facts = path.stat()
        if stat.S_ISDIR(facts.st_mode):
            return True
        if not stat.S_ISREG(facts.st_mode):  # to open a fifo would wait for its writer
            raise VideoError("invalid_data", "not a regular file")
        if facts.st_size == 0:
            raise VideoError("empty", "the file has 0 bytes")
        return _images.is_animation(path)
    except OSError as error:
        raise VideoError("invalid_data", error.strerror or str(error)) from None


def measured(decoded: _decode.Decoded) -> VideoInfo:
    """Header facts, with the rate and the first timestamp that the frames really have."""
    info, times = decoded.log.info, decoded.everything
    if len(times) > 1 and times[-1] > 0:
        info = info._replace(fps=(len(times) - 1) / float(times[-1]))
    first = decoded.log.pts[0]
    return info if first is None else info._replace(start=float(first * decoded.log.base))


def corrected(info: VideoInfo, tables: Tables) -> VideoInfo:
    """Header facts, with those that only the file's own tables tell right."""
    track = tables.track
    if not tables.is_exact():
        promised = 0.0 if tables.fragments is None else tables.fragments.seconds
        longest = max(promised, info.duration or 0.0) or None
        return info._replace(duration=tables.avi_seconds or longest)
    seconds, shown = track.seconds(), track.shown()
    return info._replace(
        fps=len(shown) / seconds if seconds else None,
        duration=seconds,
        frames=len(shown),
        start=float(track.cts[shown[0]] + track.shift) / track.timescale,
    )


def judge(decoded: _decode.Decoded, info: VideoInfo, tables: Tables) -> Status:
    """How far and how well everything decoded."""
    times, log, expected = decoded.everything, decoded.log, info.duration
    step = times[-1] - times[-2] if len(times) > 1 else 1 / info.fps if info.fps else 0.0
    reached = float(times[-1] + step)
    if not tables.is_exact():
        # A container's duration counts from 0 or from its own start, where another stream may
        # begin before the video does.
        counts_from_zero = log.container.startswith(_FROM_ZERO)
        reached += info.start - (0.0 if counts_from_zero else log.info.start)
    missing = 0.0 if expected is None else expected - reached
    is_early = missing > max(EARLY_SECONDS, EARLY_PART * (expected or 0.0))
    is_cut = tables.fragments is not None and tables.fragments.is_cut
    state = "partial" if is_early or is_cut or log.errors else "ok"
    return Status(state, expected, reached, log.errors)
