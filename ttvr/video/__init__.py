"""Video files to frames: the only part that knows ffmpeg.

ffmpeg runs as a child process in a group of its own, with a deadline, without a terminal or the
network, and reads the one file it is given: playlists and scripts are not followed. Frames are
upright, in display order, with their own timestamps, and none is invented. Pixels are those that
are stored: the sample aspect ratio is not applied, so that anamorphic video stays squeezed.

What it cannot know: an MPEG-TS or Ogg file that was cut, or a fragmented MP4 cut between two
fragments whose head promises no length, holds nothing that tells it from a whole one; its status
is ok, for the length that is there. And should this process itself be killed outright (SIGKILL), a
decoder that hangs goes on hanging; one that works ends at its next write.
"""

from __future__ import annotations

import stat
import threading
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ttvr.errors import VideoError
from ttvr.video import _avi, _decode, _fragments, _images, _isobmff
from ttvr.video._choice import Choice
from ttvr.video._command import FIRST_VIDEO
from ttvr.video._ffmpeg import ffmpeg_version, find_ffmpeg
from ttvr.video._fragments import Fragments
from ttvr.video._images import IMAGE_SUFFIXES
from ttvr.video._isobmff import Track
from ttvr.video._process import Deadline
from ttvr.video._types import Choose, Frames, Status, VideoInfo
from ttvr.video._write import write

__all__ = [
    "IMAGE_SUFFIXES",
    "TIMEOUT",
    "VIDEO_SUFFIXES",
    "Choice",
    "Frames",
    "Status",
    "VideoInfo",
    "ffmpeg_version",
    "find_ffmpeg",
    "is_video",
    "probe",
    "read_frames",
    "write",
]

# fmt: off
VIDEO_SUFFIXES = frozenset((
    ".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".flv", ".f4v", ".mpg",
    ".mpeg", ".mpe", ".m2v", ".vob", ".ts", ".m2ts", ".mts", ".ps", ".wmv", ".asf", ".ogv", ".ogg",
    ".ogm", ".rm", ".rmvb", ".mxf", ".nut", ".dv", ".h264", ".264", ".h265", ".265", ".hevc",
    ".ivf", ".y4m", ".gif", ".webp",
))
# fmt: on
EARLY_SECONDS, EARLY_PART = 1.0, 0.1  # a video that ends earlier than both before its end: partial
TIMEOUT = 60.0
_FROM_ZERO = ("matroska", "flv")  # containers whose duration is the time of the end


class _Tables(NamedTuple):
    """What the tables of the file itself tell: of every frame, or at least of the length."""

    track: Track | None
    fragments: Fragments | None = None
    avi_seconds: float | None = None

    def is_exact(self) -> bool:
        return self.track is not None and self.track.is_simple


def is_video(path: str | Path) -> bool:
    """Whether this is a video by its name, or a folder of images and nothing else to look into.

    Hidden files and Apple's `._` files are none; a WebP is one if it is animated.
    """
    path = Path(path)
    if path.name.startswith("."):
        return False
    if path.is_dir():
        inside = [item for item in path.iterdir() if not item.name.startswith(".")]
        has_more = any(item.is_dir() or is_video(item) for item in inside)
        return not has_more and any(_images.is_image(item) for item in inside)
    if path.suffix.lower() == ".webp":
        return path.is_file() and _images.is_animated_webp(path)
    return path.suffix.lower() in VIDEO_SUFFIXES


def probe(path: str | Path) -> VideoInfo:
    """What the headers of a video say; nothing is decoded.

    Raises:
        VideoError: it is no readable video.
        RequirementError: there is no ffmpeg.
    """
    path = Path(path)
    if _is_for_pillow(path):
        return _images.probe(path)
    log = _decode.header(path, Deadline.after(TIMEOUT))
    return _facts(log.info, _tables(path))


def read_frames(
    path: str | Path,
    choose: Choose,
    *,
    fps: float | None = None,
    size: int | None = None,
    start: float = 0.0,
    end: float | None = None,
    timeout: float = TIMEOUT,
    stop: threading.Event | None = None,
) -> Frames:
    """Chosen frames of a video, GIF, animated WebP or folder of images.

    Args:
        path: of the file or folder; the images of a folder are shown for a second each.
        choose: given the number n of candidates, the ascending indices 0..n-1 of those wanted.
            Repeats are returned once. It may be asked again with another n, if the headers
            promised more or fewer frames than decode.
        fps: None: every frame is a candidate; else those shown at 0, 1/fps, 2/fps, ... seconds.
        size: None: frames as stored; else the short side is scaled to it and the middle cropped,
            [size, size]. ffmpeg scales files, Pillow scales images.
        start: seconds from the first frame where candidates begin.
        end: seconds where they end; None is the end of the video.
        timeout: seconds for all of it.
        stop: setting it from another thread kills the decoder.

    Returns:
        The frames, T of them, at most as many as were chosen, never padded.

    Raises:
        VideoError: no frame could be had; its `code` says why.
        RequirementError: there is no ffmpeg.
        concurrent.futures.CancelledError: `stop` was set.
    """
    path = Path(path)
    choice = Choice(choose, fps=fps, start=start, end=end)
    deadline = Deadline.after(timeout, stop=stop)
    if _is_for_pillow(path):
        return _images.read(path, choice, size=size, deadline=deadline)
    tables = _tables(path)
    track = tables.track
    decoded = None
    if track is not None:
        decoded = _decode.thin_copy(path, track, choice, size=size, deadline=deadline)
    is_thin = decoded is not None
    if decoded is None:
        guess = track.times() if tables.is_exact() else _decode.promised_times(path, deadline)
        stream = FIRST_VIDEO if track is None else str(track.stream)
        decoded = _decode.one_pass(path, choice, guess, stream=stream, size=size, deadline=deadline)
    info = _facts(_measured(decoded), tables)
    status = Status("ok", info.duration, info.duration, 0)  # a thin copy is cut from a whole file
    if not is_thin:
        status = _status(decoded, info, tables)
    pixels = _images.stack(decoded.images)
    return Frames(pixels, decoded.times.astype(np.float32), status, info)


def _tables(path: Path) -> _Tables:
    tables = _Tables(_isobmff.read(path))
    if tables.is_exact():
        return tables
    return tables._replace(fragments=_fragments.read(path), avi_seconds=_avi.seconds(path))


def _is_for_pillow(path: Path) -> bool:
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


def _measured(decoded: _decode.Decoded) -> VideoInfo:
    """Header facts, with the rate and the first timestamp that the frames really have."""
    info, times = decoded.log.info, decoded.everything
    if len(times) > 1 and times[-1] > 0:
        info = info._replace(fps=(len(times) - 1) / float(times[-1]))
    first = decoded.log.pts[0]
    return info if first is None else info._replace(start=float(first * decoded.log.base))


def _facts(info: VideoInfo, tables: _Tables) -> VideoInfo:
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


def _status(decoded: _decode.Decoded, info: VideoInfo, tables: _Tables) -> Status:
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
