"""Progress on stderr: a moving line on a terminal, else a plain line every 30 s; or JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from types import TracebackType
from typing import TextIO

PLAIN_EVERY = 30.0
MOVING_EVERY = 0.1


def mute(stream: TextIO) -> None:
    """Send what is still written to a stream nowhere: its reader has left.

    What is buffered would otherwise fail again at exit, and change the exit code.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Progress:
    """Counts items done and failed, and says so at most as often as the stream can bear.

    Args:
        what: the unit, in the plural: "videos".
        total: how many there are; None where that is not known.
        mode: auto, always, never or json (`--progress`).
        quiet: say nothing whatever the mode.
        stream: stderr by default.
    """

    def __init__(
        self,
        what: str,
        *,
        total: int | None,
        mode: str = "auto",
        quiet: bool = False,
        stream: TextIO | None = None,
    ) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._what, self._total = what, total
        terminal = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        if quiet or mode == "never":
            self._mode = "never"
        elif mode == "auto":
            self._mode = "moving" if terminal else "plain"
        else:
            self._mode = "moving" if mode == "always" else mode
        self._interval = MOVING_EVERY if self._mode == "moving" else PLAIN_EVERY
        if self._mode == "json":
            self._interval = 1.0
        self._done = self._failed = self._skipped = 0
        self._began = self._last = time.monotonic()

    def __enter__(self) -> Progress:
        self._say(final=False)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._say(final=True)

    def step(self, *, failed: bool = False, skipped: int = 0) -> None:
        """Count one item, or `skipped` items that were already done before this run."""
        self._skipped += skipped
        self._done += skipped or 1
        self._failed += failed
        if time.monotonic() - self._last >= self._interval:
            self._say(final=False)

    def _say(self, *, final: bool) -> None:
        self._last = time.monotonic()
        if self._mode == "never":
            return
        if self._mode == "json":
            line = json.dumps(self._facts(final=final)) + "\n"
        elif self._mode == "plain":
            line = self._sentence() + "\n"
        else:
            # Erase to the end of the line: a shorter line must not leave the tail of a longer one.
            line = "\r" + self._sentence() + "\x1b[K" + ("\n" if final else "")
        try:
            self._stream.write(line)
            self._stream.flush()
        except BrokenPipeError:
            self._mode = "never"  # nobody listens any more; the work goes on
            mute(self._stream)

    def _rate(self) -> float:
        spent = max(time.monotonic() - self._began, 1e-9)
        return (self._done - self._skipped) / spent

    def _facts(self, *, final: bool) -> dict[str, object]:
        return {
            "event": "progress",
            "what": self._what,
            "done": self._done,
            "total": self._total,
            "failed": self._failed,
            "rate": round(self._rate(), 3),
            "final": final,
        }

    def _sentence(self) -> str:
        total = "" if self._total is None else f"/{self._total}"
        text = f"{self._done}{total} {self._what}"
        rate = self._rate()
        if self._done > self._skipped:
            text += f", {rate:.1f}/s"
            if self._total is not None and self._total > self._done:
                text += f", {_clock((self._total - self._done) / rate)} left"
        if self._failed:
            text += f", {self._failed} failed"
        return text


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
