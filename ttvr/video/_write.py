"""Writes frames as an H.264 MP4."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np

from ttvr.errors import TtvrError
from ttvr.files import written
from ttvr.video import _command
from ttvr.video._log import Log
from ttvr.video._process import Deadline, run

TIMEOUT = 600.0  # seconds
CODECS = ("libx264", "mpeg4")  # the second is built into every ffmpeg


def write(path: str | Path, frames: np.ndarray, *, fps: float) -> None:
    """Write frames to an MP4 (H.264, or MPEG-4 where this ffmpeg has no x264), tables first.

    The file appears under its name only when it is complete.

    Args:
        path: of the file to make or replace.
        frames: [T, H, W, 3] uint8 RGB, H and W even, T at least 1.
        fps: frames per second.

    Raises:
        RequirementError: there is no ffmpeg.
        TtvrError: ffmpeg could not write it.
    """
    path = Path(path)
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise ValueError(f"frames must be [T, H, W, 3] uint8, not {frames.dtype} {frames.shape}")
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"H and W must be even for yuv420p, not {height} x {width}")
    rate = Fraction(fps).limit_denominator(100_000)
    reasons = []
    with written(path) as partial:
        for codec in CODECS:
            command = _command.encode(partial, width=width, height=height, fps=rate, codec=codec)
            log = Log()
            status = run(
                command,
                Deadline.after(TIMEOUT),
                on_output=lambda piece: None,
                on_line=log.line,
                feed=_bytes(frames),
            )
            if status == 0:
                return
            reasons.append(log.failure(status).detail)
        raise TtvrError(f"cannot write {path}: {reasons[0]}")


def _bytes(frames: np.ndarray) -> Iterator[bytes]:
    for frame in frames:
        yield frame.tobytes()
