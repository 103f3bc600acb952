"""Videos that the tests make: frames that carry their number, and ffmpeg's own patterns."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest

from ttvr import video
from ttvr.video import _ffmpeg

BITS, BLOCK = 12, 16


ORIGINS = ("path", "carried")


def use_binary(origin, monkeypatch):
    """Decode with the ffmpeg of PATH, or with that of imageio-ffmpeg; its name."""
    found = shutil.which("ffmpeg") if origin == "path" else _ffmpeg._carried()
    if found is None:
        pytest.skip(f"no ffmpeg of that origin: {origin}")
    monkeypatch.setenv("TTVR_FFMPEG", found)
    return found


def everything(n):
    return list(range(n))


def spread(count):
    """Middle of each of `count` segments, a plain loop."""
    return lambda n: sorted({int(n * (2 * i + 1) / (2 * count)) for i in range(count)})


def coded(numbers, *, height=48):
    """Frames [T, height, 192, 3] that carry their number as white and black blocks."""
    frames = np.zeros((len(numbers), height, BITS * BLOCK, 3), np.uint8)
    for frame, number in zip(frames, numbers, strict=True):
        for bit in range(BITS):
            frame[:, bit * BLOCK : (bit + 1) * BLOCK] = 235 if number >> bit & 1 else 20
    return frames


def numbers(pixels):
    """The numbers of upright frames made by `coded`, [T, H, 192, 3]."""
    middle = pixels[:, pixels.shape[1] // 2, BLOCK // 2 :: BLOCK, 1] > 128
    return [int(sum(1 << bit for bit in np.flatnonzero(row))) for row in middle]


def make(path, *arguments):
    """Run ffmpeg with these arguments to make a file."""
    command = [str(video.find_ffmpeg()), "-nostdin", "-v", "error", "-y", *arguments, str(path)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return path


def chosen(path, choose, **options):
    """Numbers and times of the chosen frames, and all that was returned."""
    result = video.read_frames(path, choose, **options)
    return numbers(result.pixels), [round(float(t), 4) for t in result.times], result
