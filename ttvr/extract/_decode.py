"""Decoding ahead of the model: several videos at once, results in the order of the inputs."""

from __future__ import annotations

import errno
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ttvr import frames as framing
from ttvr import video
from ttvr.errors import TtvrError, VideoError
from ttvr.extract._inputs import Input, Read, read_file
from ttvr.records import Clip
from ttvr.store import Outcome

AHEAD_PER_JOB = 4  # a slow video holds up the model only after this many others
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOSPC)


class Decoding(NamedTuple):
    """How frames are chosen and resized.

    Attributes:
        frames: T, how many at most.
        sampler: a name of `frames.SAMPLERS`.
        fps: candidates per second to choose from; None: all frames.
        size: side of the square frames the model takes, pixels.
        exact_resize: resize as PIL does, from full frames, not in ffmpeg.
        timeout: seconds for one video.
        read: what gives the frames of a clip.
    """

    frames: int
    sampler: str
    fps: float | None
    size: int
    exact_resize: bool
    timeout: float
    read: Read = read_file


class Decoded(NamedTuple):
    """Frames of a video, at most T of them.

    Attributes:
        facts: what the journal says of it.
        pixels: [t, size, size, 3] uint8 RGB, or [t, 3, size, size] float32 normalized.
        times: [t] float32 seconds.
    """

    facts: dict[str, Any]
    pixels: np.ndarray
    times: np.ndarray


def decode(clip: Clip, how: Decoding, stop: threading.Event) -> Decoded | Outcome:
    """The frames of a video, or the outcome of one that has none.

    Raises:
        RequirementError: there is no ffmpeg.
        TtvrError: the machine, not the video, is in the way: no memory, no more open files, ffmpeg
            cannot be started. That says nothing of the video, so it must not get an outcome.
    """
    sampler = framing.SAMPLERS[how.sampler]
    try:
        found = how.read(
            clip,
            lambda n: sampler(n, how.frames),
            fps=how.fps,
            size=None if how.exact_resize else how.size,
            timeout=how.timeout,
            stop=stop,
        )
    except VideoError as error:
        _blame_machine(error.__context__, clip.path)
        return failure(error.code, error.detail)
    except OSError as error:
        _blame_machine(error, clip.path)
        return failure("invalid_data", error.strerror or str(error))
    pixels = found.pixels
    if how.exact_resize:
        pixels = np.asarray(framing.preprocess(pixels, how.size))
    return Decoded(_facts(found), pixels, found.times)


def failure(code: str, detail: str) -> Outcome:
    """The outcome of a video without a usable frame."""
    return Outcome({"status": "failed", "error": code, "detail": " ".join(detail.split())}, None)


def ordered(
    inputs: Iterable[Input],
    how: Decoding,
    *,
    jobs: int,
    kept: Callable[[Input], Outcome | None],
) -> Iterator[tuple[Input, Decoded | Outcome]]:
    """Each input and what it gives, in their order, decoded by `jobs` threads ahead of the caller.

    The work is in ffmpeg's processes, so threads are enough. Closing the iterator ends them.

    Args:
        inputs: in order.
        how: see `Decoding`.
        jobs: decoders at once.
        kept: an outcome that needs no decoding, or None.
    """
    stop = threading.Event()
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="decode")
    waiting: deque[tuple[Input, Outcome | Future[Decoded | Outcome]]] = deque()
    try:
        for item in inputs:
            ready = kept(item)
            if ready is None:
                ready = pool.submit(decode, item.clip, how, stop)
            waiting.append((item, ready))
            if len(waiting) > jobs * AHEAD_PER_JOB:
                yield _result(*waiting.popleft())
        while waiting:
            yield _result(*waiting.popleft())
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _blame_machine(error: BaseException | None, path: Path) -> None:
    """Raise TtvrError for an error that would have come with any other video too.

    Errors of starting a program name the program; those of opening the video name the video, and
    those of reading it name nothing.
    """
    if not isinstance(error, OSError):
        return
    is_named = isinstance(error.filename, str | bytes | os.PathLike)
    culprit = Path(os.fsdecode(error.filename)) if is_named else path
    if error.errno in _EXHAUSTED or not culprit.is_relative_to(path):
        raise TtvrError(
            f"cannot decode {path} now ({culprit}: {error.strerror}), which is no fault of it; "
            "what is done before it is kept, run the same command again"
        ) from error


def _result(
    item: Input, ready: Outcome | Future[Decoded | Outcome]
) -> tuple[Input, Decoded | Outcome]:
    return item, ready.result() if isinstance(ready, Future) else ready


def _facts(found: video.Frames) -> dict[str, Any]:
    status, info = found.status, found.info
    facts: dict[str, Any] = {
        "status": status.state,
        "duration": _rounded(info.duration),
        "frames": len(found.times),
        "rotation": info.rotation,
    }
    if status.state == "partial":
        facts["expected_s"] = _rounded(status.expected_s)
        facts["decoded_s"] = _rounded(status.decoded_s)
        facts["decoder_errors"] = status.decoder_errors
    return facts


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(float(seconds), 3)
