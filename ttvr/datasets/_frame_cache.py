"""Decoded frames on disk: what training reads again every epoch is decoded once.

A file per clip: a `.npy` of all its frames, [n, size, size, 3] uint8, and behind it a checksum of
each. It is used for as long as the video, the part of it, the frame size and ffmpeg are those it
was made with, and only where the checksums of the frames that are wanted agree.
"""

from __future__ import annotations

import hashlib
import threading
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ttvr import files, video
from ttvr.errors import VideoError
from ttvr.records import Clip

FORMAT = "ttvr-frames/1"
MOST_FRAMES = 4096
"""A clip with more is decoded each time: all its frames would have to be in memory at once."""
_CHECKSUM = np.dtype("<u4")
_LOCKS = 64

Choose = Callable[[int], Sequence[int]]
Read = Callable[..., np.ndarray]
"""A bound `Dataset.read`."""


def cached(
    read: Read,
    folder: Path,
    *,
    most: int = MOST_FRAMES,
    on_first: Callable[[int], None] = lambda size: None,
) -> Read:
    """The same frames, bit for bit, of which those of a clip are decoded once.

    Several processes may share the folder: a file appears whole, whoever makes it.

    Args:
        read: of a dataset with files.
        folder: exists; takes n * size * size * 3 bytes per clip.
        most: frames of a clip that are kept; one with more is read as without a cache.
        on_first: told the side of the frames, once, before any are read.

    Returns:
        As `read`, and raises what that raises; OSError where the folder cannot be written.
    """
    # Threads may want one clip at once, for several of its captions: one makes the file.
    making = [threading.Lock() for _ in range(_LOCKS)]
    telling, left = threading.Lock(), [on_first]

    def read_cached(clip: Clip, choose: Choose, *, size: int) -> np.ndarray:
        with telling:
            if left:
                left.pop()(size)
        key = _key(clip, size)
        path = folder / f"{key}.npy"
        found = _load(path, choose)
        if found is not None:
            return found
        with making[int(key, 16) % _LOCKS]:
            found = _load(path, choose)
            return _made(read, clip, choose, size, path, most) if found is None else found

    return read_cached


def frames_of(clips: Sequence[Clip], *, probed: int = 16) -> int:
    """About how many frames clips have, by the headers of some of them.

    Args:
        clips: at least one.
        probed: how many are looked at; those that say nothing count as none.
    """
    some = clips[:: -(-len(clips) // probed)]
    return round(sum(_promised(clip) for clip in some) / len(some) * len(clips))


def _promised(clip: Clip) -> float:
    try:
        info = video.probe(clip.path)
    except VideoError:  # the reader will say it
        return 0.0
    fps, seconds = info.fps or 0.0, info.duration or 0.0
    return max(0.0, min(clip.end or seconds, seconds) - clip.start) * fps


def _made(read: Read, clip: Clip, choose: Choose, size: int, path: Path, most: int) -> np.ndarray:
    """Chosen frames of a clip, decoded; all of them are kept where that changes nothing."""
    asked: set[int] = set()

    def everything(n: int) -> Sequence[int]:
        asked.add(n)
        return range(n) if n <= most else choose(n)

    try:
        frames = read(clip, everything, size=size)
    except VideoError:  # those that are wanted may still be had
        return read(clip, choose, size=size)
    if min(asked) > most:
        return frames
    if asked != {len(frames)}:
        # Headers promise other frames than decode: the reader alone knows which are candidates.
        return read(clip, choose, size=size)
    files.write(path, lambda file: _save(file, frames))
    return frames[_picks(choose, len(frames))]


def _key(clip: Clip, size: int) -> str:
    stamp = video.stamp(clip.path)
    facts = (FORMAT, str(clip.path.absolute()), stamp, clip.start, clip.end, size)
    return hashlib.sha256(repr((*facts, video.ffmpeg_version())).encode()).hexdigest()[:32]


def _save(file: BinaryIO, frames: np.ndarray) -> None:
    np.save(file, frames, allow_pickle=False)
    file.write(_checksums(frames).tobytes())


def _load(path: Path, choose: Choose) -> np.ndarray | None:
    """Chosen frames, or None where there is no file, or one that is not what was written."""
    try:
        frames = np.load(path, mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):
        return None
    n = len(frames) if frames.ndim == 4 else 0
    end = frames.offset + frames.nbytes
    if frames.dtype != np.uint8 or not n or path.stat().st_size != end + n * _CHECKSUM.itemsize:
        return None
    sums = np.fromfile(path, _CHECKSUM, offset=end)
    picks = _picks(choose, n)
    found = np.asarray(frames)[picks]
    return None if (_checksums(found) != sums[picks]).any() else found


def _picks(choose: Choose, n: int) -> np.ndarray:
    """Ascending indices, each once."""
    return np.unique([int(index) for index in choose(n)])


def _checksums(frames: np.ndarray) -> np.ndarray:
    """[T] uint32 of frames [T, H, W, 3]."""
    return np.array([zlib.crc32(np.ascontiguousarray(one)) for one in frames], _CHECKSUM)
