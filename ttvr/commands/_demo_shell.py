"""A shell session that shows itself: commands as they are typed, then what they say."""

from __future__ import annotations

import contextlib
import io
import shlex
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module

from ttvr.commands._run import DONE, FAILED, INTERRUPTED
from ttvr.errors import TtvrError

Words = Sequence[str]


class Unexpected(TtvrError):
    """A command that did not end as it should have; its exit code becomes that of the session."""

    def __init__(self, line: str, code: int, expected: int) -> None:
        super().__init__(f"`{line}` ended with exit code {code}, expected {expected}")
        self.exit_code = code or FAILED


def say(text: str) -> None:
    """Print an explanation of some lines, as comments of a shell."""
    print()
    for line in text.split("\n"):
        print(f"# {line}".rstrip())


def show(line: str, output: str = "") -> None:
    """Print a line as it is typed, and what comes of it."""
    print(f"\n$ {line}\n{output}", end="", flush=True)


def run(words: Words, *, expected: int = DONE) -> None:
    """Show and run a command of ttvr.

    It runs in this process, since importing torch takes longer than most of them; stdout and
    stderr both go to stdout, in the order in which a terminal would show them.

    Raises:
        Unexpected: another exit code than was expected.
        KeyboardInterrupt: it was interrupted.
    """
    line = shlex.join(words)
    show(line)
    with _as_typed(words):
        _check(line, _main(words), expected)


def pipe(first: Words, second: Words) -> None:
    """Show and run two commands, the second reading what the first prints; errors as `run`."""
    line = f"{shlex.join(first)} | {shlex.join(second)}"
    show(line)
    between = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with _as_typed(first), contextlib.redirect_stdout(between):
        _check(line, _main(first), DONE)
    between.seek(0)
    stdin, sys.stdin = sys.stdin, between
    try:
        with _as_typed(second):
            _check(line, _main(second), DONE)
    finally:
        sys.stdin = stdin


@contextlib.contextmanager
def _as_typed(words: Words) -> Iterator[None]:
    """The streams and the arguments that the command would have by itself, but for one stdout."""
    argv, sys.argv = sys.argv, list(words)
    try:
        with contextlib.redirect_stderr(sys.stdout):
            yield
    finally:
        sys.argv = argv


def _main(words: Words) -> int:
    verb = words[0].removeprefix("ttvr-")
    return import_module(f"ttvr.commands.{verb}").main(words[1:])


def _check(line: str, code: int, expected: int) -> None:
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code != expected:
        raise Unexpected(line, code, expected)
