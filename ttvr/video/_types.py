"""What the package hands out: facts of a video, how well it decoded, and its frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Choose = Callable[[int], list[int]]


class VideoInfo(NamedTuple):
    """What the headers say.

    Attributes:
        width: of an upright frame, stored pixels (the sample aspect ratio is not applied).
        height: of an upright frame.
        fps: mean frames per second, None if unknown.
        duration: seconds, of the video track where it is known, else of the container.
        frames: number of frames that the header promises, None if it does not say.
        codec: ffmpeg's name of the codec, or the image format.
        rotation: clockwise turn that makes stored frames upright: 0, 90, 180 or 270.
        start: timestamp of the first frame in seconds, as stored.
    """

    width: int
    height: int
    fps: float | None
    duration: float | None
    frames: int | None
    codec: str
    rotation: int
    start: float


class Status(NamedTuple):
    """How well a video decoded: `partial` if it ends early or the decoder reported errors."""

    state: str
    expected_s: float | None
    decoded_s: float | None
    decoder_errors: int


class Frames(NamedTuple):
    """Chosen frames of a video.

    Attributes:
        pixels: [T, H, W, 3] uint8 RGB, upright.
        times: [T] float32 seconds since the video's first frame.
        status: of the decoding.
        info: what the headers say.
    """

    pixels: np.ndarray
    times: np.ndarray
    status: Status
    info: VideoInfo
