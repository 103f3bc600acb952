"""From a file to chosen frames: a thin copy where that is cheaper, else one pass over everything.

Every decoded frame is counted and its timestamp noted. What the headers promise is only a guess
for the first pass: where something else decodes, frames are chosen anew among what did.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ttvr.errors import VideoError
from ttvr.video import _command, _thin
from ttvr.video._choice import Choice
from ttvr.video._isobmff import Track
from ttvr.video._log import Log
from ttvr.video._ppm import PpmReader
from ttvr.video._process import Deadline, run

PASSES = 3  # one by the headers' guess, one by what decoded, one if the frame size changes
_NO_TIME = (b"NOPTS", b"%d" % -(1 << 63))  # how a missing timestamp is written
DEFAULT_STEP = 0.04  # seconds between frames that have no timestamp and no known rate


class Decoded(NamedTuple):
    """Chosen frames.

    Attributes:
        images: [H, W, 3] uint8 each, T of them.
        times: [T] float64 seconds from the first frame.
        everything: [n] float64, the times of all frames of the video.
        log: what ffmpeg said.
    """

    images: list[np.ndarray]
    times: np.ndarray
    everything: np.ndarray
    log: Log


def header(path: Path, deadline: Deadline) -> Log:
    """What ffmpeg says of a file without decoding it.

    Raises:
        VideoError: it is no video, or time is up.
    """
    log = Log()
    status = run(_command.show_header(path), deadline, on_output=_ignore, on_line=log.line)
    if log.info is None:
        raise log.failure(status)
    return log


def promised_times(path: Path, deadline: Deadline) -> np.ndarray:
    """Times [n] float64 in seconds of the packets of a file, from the first on: a guess at frames.

    Raises:
        VideoError: it has no video stream that can be read, or time is up.
    """
    log, text = Log(), bytearray()
    status = run(_command.list_packets(path), deadline, on_output=text.extend, on_line=log.line)
    base = re.search(rb"#tb 0: (\d+)/(\d+)", text)
    if log.info is None or base is None:
        raise log.failure(status)
    stamps = [line.split(b",")[2].strip() for line in text.splitlines() if line[:1].isdigit()]
    known = sorted(int(stamp) for stamp in stamps if stamp not in _NO_TIME)
    if len(known) < len(stamps):
        return np.arange(len(stamps)) * (1 / log.info.fps if log.info.fps else DEFAULT_STEP)
    ticks = np.array(known, np.float64)
    return (ticks - ticks[:1]) * int(base[1]) / int(base[2])


def thin_copy(
    path: Path, track: Track, choice: Choice, *, size: int | None, deadline: Deadline
) -> Decoded | None:
    """Chosen frames, decoded from the samples that they need alone.

    Returns:
        None where that is not worth it, or where not every chosen frame came back with its own
        timestamp and without an error: then everything must be decoded.

    Raises:
        VideoError: the choice is empty, or time is up.
    """
    if not track.is_simple:  # its tables may know only the first frames
        return None
    shown = track.shown()
    times = track.times()
    chosen = choice.frames(times)
    samples = _thin.select(path, track, shown[chosen])
    feed = None if samples is None else _thin.pieces(path, track, samples)
    if samples is None or feed is None:
        return None
    ticks = (track.cts[shown[chosen]] + _thin.offset(track, samples)).tolist()
    expression = _command.any_of("pts", ticks)
    if expression is None:
        return None
    command = _command.decode(None, stream="v:0", expression=expression, size=size)
    status, reader, log = _run(command, deadline, keep=_always, feed=feed)
    is_exact = None not in log.pts and sorted(log.pts) == ticks and reader.count == len(ticks)
    if (
        status
        or log.errors
        or log.info is None
        or not is_exact
        or log.base != Fraction(1, track.timescale)
    ):
        return None
    images = [reader.images[number] for number in np.argsort(log.pts)]
    return Decoded(images, times[chosen], times, log)


def one_pass(
    path: Path,
    choice: Choice,
    guess: np.ndarray,
    *,
    stream: str,
    size: int | None,
    deadline: Deadline,
) -> Decoded:
    """Chosen frames of a video of which everything is decoded.

    Args:
        path: the file.
        choice: which frames.
        guess: [n] times of the frames that the headers promise.
        stream: which stream of the file.
        size: short side to scale to and square to crop, or None.
        deadline: for all passes together.

    Raises:
        VideoError: nothing decodes, the choice is empty, or time is up.
    """
    wanted = _hoped(choice, guess)
    can_select = True
    for _ in range(PASSES):
        expression = _command.any_of("n", wanted) if can_select else None
        command = _command.decode(path, stream=stream, expression=expression, size=size)
        keep = set(wanted).__contains__ if expression is None else _always
        status, reader, log = _run(command, deadline, keep=keep)
        if status < 0 or not log.pts or log.info is None:
            raise log.failure(status)
        if log.configs > 1 and expression is not None:
            can_select = False  # the filters were set up anew and count from 0 again
            continue
        times = frame_times(log)
        numbers = range(len(times)) if expression is None else wanted
        images = {number: reader.images.get(at) for at, number in enumerate(numbers)}
        chosen = choice.frames(times)
        if all(images.get(number) is not None for number in chosen.tolist()):
            return Decoded(
                [images[number] for number in chosen.tolist()], times[chosen], times, log
            )
        wanted = chosen.tolist()
    raise VideoError("invalid_data", "it decodes differently each time")


def _hoped(choice: Choice, guess: np.ndarray) -> list[int]:
    """What would be chosen if the headers were right; nothing where that leaves nothing."""
    try:
        return choice.frames(guess).tolist() if len(guess) else []
    except VideoError:
        return []


def frame_times(log: Log) -> np.ndarray:
    """Times [n] float64 of all decoded frames, in seconds from the first."""
    step = 1 / log.info.fps if log.info is not None and log.info.fps else DEFAULT_STEP
    times: list[float] = []
    first = next((Fraction(tick) for tick in log.pts if tick is not None), Fraction(0))
    for tick in log.pts:
        if tick is not None:
            times.append(float((tick - first) * log.base))
        else:
            times.append(times[-1] + step if times else 0.0)
    return np.array(times)


def _run(
    command: list[str],
    deadline: Deadline,
    *,
    keep: Callable[[int], bool],
    feed: Iterator[bytes] | None = None,
) -> tuple[int, PpmReader, Log]:
    reader, log = PpmReader(keep), Log()
    status = run(command, deadline, on_output=reader.push, on_line=log.line, feed=feed)
    return status, reader, log


def _always(number: int) -> bool:
    return True


def _ignore(piece: bytes) -> None:
    return
