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

import threading
from pathlib import Path

import numpy as np

from ttvr.video import _decode, _facts, _images
from ttvr.video._choice import Choice
from ttvr.video._command import FIRST_VIDEO
from ttvr.video._compress import CONTAINERS, compress, compressed_name
from ttvr.video._ffmpeg import ffmpeg_version, find_ffmpeg
from ttvr.video._images import IMAGE_SUFFIXES
from ttvr.video._process import Deadline
from ttvr.video._stamp import stamp
from ttvr.video._types import Choose, Frames, Status, VideoInfo
from ttvr.video._write import write

__all__ = [
    "CONTAINERS",
    "IMAGE_SUFFIXES",
    "TIMEOUT",
    "VIDEO_SUFFIXES",
    "Choice",
    "Frames",
    "Status",
    "VideoInfo",
    "compress",
    "compressed_name",
    "ffmpeg_version",
    "find_ffmpeg",
    "is_video",
    "probe",
    "read_frames",
    "stamp",
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
TIMEOUT = 60.0


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
    if _facts.is_for_pillow(path):
        return _images.probe(path)
    log = _decode.header(path, Deadline.after(TIMEOUT))
    return _facts.corrected(log.info, _facts.read_tables(path))


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
    if _facts.is_for_pillow(path):
        return _images.read(path, choice, size=size, deadline=deadline)
    tables = _facts.read_tables(path)
    track = tables.track
    decoded = None
    if track is not None:
        decoded = _decode.thin_copy(path, track, choice, size=size, deadline=deadline)
    is_thin = decoded is not None
    if decoded is None:
        guess = track.times() if tables.is_exact() else _decode.promised_times(path, deadline)
        stream = FIRST_VIDEO if track is None else str(track.stream)
        decoded = _decode.one_pass(path, choice, guess, stream=stream, size=size, deadline=deadline)
    info = _facts.corrected(_facts.measured(decoded), tables)
    status = Status("ok", info.duration, info.duration, 0)  # a thin copy is cut from a whole file
    if not is_thin:
        status = _facts.judge(decoded, info, tables)
    pixels = _images.stack(decoded.images)
    return Frames(pixels, decoded.times.astype(np.float32), status, info)
