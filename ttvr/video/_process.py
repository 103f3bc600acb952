"""Runs ffmpeg: in its own process group, against a deadline, with bounded memory."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from typing import NamedTuple

from ttvr.errors import VideoError

CHUNK = 1 << 20  # bytes per read
STOP_EVERY = 0.2  # seconds between looks at whether the work was called off
PAUSE = 0.002  # seconds in which messages may gather: they come in many small writes
LINE_LIMIT = 1 << 16  # a longer line of the decoder is cut


class Deadline(NamedTuple):
    """When the work on one video must be done, and who may end it before."""

    limit: float
    at: float
    stop: threading.Event | None = None

    @classmethod
    def after(cls, seconds: float, *, stop: threading.Event | None = None) -> Deadline:
        """The moment that many seconds from now."""
        return cls(seconds, time.monotonic() + seconds, stop)

    def left(self) -> float:
        """Seconds left, at least 0."""
        return max(0.0, self.at - time.monotonic())

    def nap(self) -> float:
        """Seconds to wait at most before `check` is called again."""
        return self.left() if self.stop is None else min(self.left(), STOP_EVERY)

    def check(self) -> None:
        """Raise TimeoutError when the time is up, CancelledError when the work was called off."""
        if self.stop is not None and self.stop.is_set():
            raise CancelledError
        if self.left() == 0:
            raise TimeoutError


def run(
    arguments: list[str],
    deadline: Deadline,
    *,
    on_output: Callable[[bytes], None],
    on_line: Callable[[str], None],
    feed: Iterator[bytes] | None = None,
) -> int:
    """The exit status of a child process, after all that it wrote has been handed on.

    Args:
        arguments: program and arguments.
        deadline: the child and all its children are killed then.
        on_output: takes what comes on its stdout, piece by piece.
        on_line: takes each line of its stderr.
        feed: pieces for its stdin; without them stdin is the null device, never ours.

    Raises:
        VideoError: timeout.
        CancelledError: the deadline's `stop` was set.
    """
    child = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL if feed is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
    )
    try:
        _pump(child, deadline, on_output=on_output, on_line=on_line, feed=feed)
        return child.wait(timeout=deadline.left())
    except (subprocess.TimeoutExpired, TimeoutError):
        raise VideoError("timeout", f"no end after {deadline.limit:g} s, killed") from None
    finally:
        _end(child)


def _pump(
    child: subprocess.Popen[bytes],
    deadline: Deadline,
    *,
    on_output: Callable[[bytes], None],
    on_line: Callable[[str], None],
    feed: Iterator[bytes] | None,
) -> None:
    """Serve the three pipes at once, so that neither side waits for the other for ever."""
    lines = _Lines(on_line)
    with selectors.DefaultSelector() as selector:
        selector.register(child.stdout, selectors.EVENT_READ, on_output)
        selector.register(child.stderr, selectors.EVENT_READ, lines.push)
        if feed is not None:
            os.set_blocking(child.stdin.fileno(), False)
            selector.register(child.stdin, selectors.EVENT_WRITE, _Feeder(feed))
        while selector.get_map():
            events = selector.select(deadline.nap())
            deadline.check()
            for key, _ in events:
                if not _serve(key):
                    selector.unregister(key.fileobj)
                    key.fileobj.close()
            if all(key.fileobj is child.stderr for key, _ in events):
                time.sleep(PAUSE)
    lines.close()


def _serve(key: selectors.SelectorKey) -> bool:
    """Move one piece through one pipe; False when that pipe has come to its end."""
    if isinstance(key.data, _Feeder):
        return key.data.write(key.fd)
    piece = os.read(key.fd, CHUNK)
    if piece:
        key.data(piece)
    return bool(piece)


class _Feeder:
    """Writes pieces to a pipe as far as it takes them."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def write(self, pipe: int) -> bool:
        if not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return False
            self._rest = memoryview(piece)
        try:
            self._rest = self._rest[os.write(pipe, self._rest) :]
        except BlockingIOError:
            return True
        except BrokenPipeError:  # the child has read all that it wants
            return False
        return True


class _Lines:
    """Cuts what it is given into lines."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._rest = b""

    def push(self, piece: bytes) -> None:
        *whole, rest = (self._rest + piece).split(b"\n")
        for line in whole:
            self._on_line(line[:LINE_LIMIT].decode("utf-8", "replace"))
        self._rest = rest[:LINE_LIMIT]

    def close(self) -> None:
        if self._rest:
            self._on_line(self._rest.decode("utf-8", "replace"))


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill the process group of a child that has not ended by itself, and take its exit status."""
    if child.returncode is None:  # after the wait the number may belong to somebody else
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    for pipe in (child.stdin, child.stdout, child.stderr):
        if pipe is not None:
            pipe.close()
    child.wait()
