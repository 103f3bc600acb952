"""Makes small copies of videos: few frames, short side as the model takes it, no sound."""

from __future__ import annotations

import threading
from fractions import Fraction
from pathlib import Path

from ttvr.errors import VideoError
from ttvr.files import written
from ttvr.video import _command, _decode, _facts
from ttvr.video._log import Log
from ttvr.video._process import Deadline, run
from ttvr.video._types import Status

CONTAINERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".avi": "avi",
    ".flv": "flv",
}
"""Suffixes that are kept -> ffmpeg's muxer. Others hold no such rate or size, or no encoder fits:
MPEG-1 and 2 know no 3 frames per second, and H.263 in 3GP five sizes."""
OTHERWISE = ".mp4"


def compressed_name(name: str) -> str:
    """The name of a video's small copy: the same, or with `.mp4` where its container cannot be."""
    path = Path(name)
    return name if path.suffix.lower() in CONTAINERS else str(path.with_suffix(OTHERWISE))


def compress(
    path: Path,
    target: Path,
    *,
    fps: float,
    size: int,
    timeout: float,
    stop: threading.Event | None = None,
) -> Status:
    """Re-encode a video as CenterCLIP and CLIP4Clip prepare theirs.

    Frame k of the copy is the one that the video shows k / fps seconds after its first frame. The
    short side becomes `size`, of smaller videos too, and the long one is cut to an even number of
    pixels, so that nothing is cropped. Frames are upright, sound is left out. Encoder and quality
    are ffmpeg's own for the container; pixels are always yuv420p, which departs from ffmpeg's
    own choice for videos of 10 bits and 4:4:4.

    Args:
        path: of the video.
        target: of the copy, with a suffix of `CONTAINERS`; appears only when it is complete.
        fps: frames per second, of which a video with fewer has some repeated.
        size: pixels, even.
        timeout: seconds for all of it.
        stop: setting it from another thread kills the encoder.

    Returns:
        How well the video decoded: a partial one is as long as what decoded.

    Raises:
        VideoError: nothing decodes, time is up, or it is an animated image or a folder of images.
        OSError: the copy cannot be written.
        RequirementError: there is no ffmpeg.
        concurrent.futures.CancelledError: `stop` was set.
    """
    if size % 2:
        raise ValueError(f"the short side must be even for yuv420p, not {size}")
    if _facts.is_for_pillow(path):
        raise VideoError("unsupported_codec", "images are not re-encoded; use them as they are")
    tables = _facts.read_tables(path)
    stream = _command.FIRST_VIDEO if tables.track is None else str(tables.track.stream)
    log = Log()
    with written(target) as partial:
        command = _command.recode(
            path,
            partial,
            stream=stream,
            fps=Fraction(fps).limit_denominator(100_000),
            size=size,
            container=CONTAINERS[target.suffix.lower()],
        )
        deadline = Deadline.after(timeout, stop=stop)
        status = run(command, deadline, on_output=lambda piece: None, on_line=log.line)
        if status or not log.pts or log.info is None or not _has_content(partial):
            raise log.failure(status)
    times = _decode.frame_times(log)
    decoded = _decode.Decoded([], times[:0], times, log)
    return _facts.judge(decoded, _facts.corrected(_facts.measured(decoded), tables), tables)


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0
