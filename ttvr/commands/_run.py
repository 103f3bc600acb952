"""How every command starts and ends: parse, run, one line and an exit code for what went wrong."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from ttvr import __version__
from ttvr.commands._progress import mute
from ttvr.errors import TtvrError
from ttvr.wording import meant

DONE, FAILED, USAGE, PARTIAL, INCOMPATIBLE, MISSING, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130

PACKAGES = {
    "torch": "torch",
    "numpy": "numpy",
    "PIL": "pillow",
    "ffmpeg": "ffmpeg-python",
    "ftfy": "ftfy",
    "regex": "regex",
}
"""What ttvr cannot do without: module -> the name it is installed by."""

_EXIT_CODES = (
    "exit codes: 0 all done, 1 failed, 2 wrong use, 3 done but some inputs failed or were partial "
    "(listed), 4 inputs do not belong together, 5 a requirement is missing, 130 interrupted"
)


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults where there is one to show, and keeps the line breaks of the examples."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or action.default == []:
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """Wrong use is one line, like every other error; the usage is in --help."""

    resumes = False

    def error(self, message: str) -> None:
        """Exit with code 2 after one line, which begins as every error of the command does."""
        command = self.prog.partition(" ")[0]  # without the verb
        self.exit(USAGE, f"{command}: {message} (see {self.prog} --help)\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As argparse does, and with the nearest choice."""
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            have = ", ".join(choices) + meant(str(value), choices)
            raise argparse.ArgumentError(action, f"invalid choice: {value!r} (choose from {have})")


def parser(verb: str, *, summary: str, examples: Sequence[str], resumes: bool = False) -> Parser:
    """A parser with what all commands share: examples and exit codes in --help, --version, -v, -q.

    Args:
        verb: the command's name without `ttvr-`.
        summary: what the command reads and writes.
        examples: command lines that work, shown at the end of --help.
        resumes: the same command run again goes on where it was interrupted.
    """
    epilog = "\n".join(["examples:", *(f"  {line}" for line in examples), "", _EXIT_CODES])
    made = Parser(
        prog=f"ttvr-{verb}",
        description=summary,
        epilog=epilog,
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    made.resumes = resumes
    made.add_argument("--version", action="version", version=f"ttvr {__version__}")
    made.add_argument(
        "-v", "--verbose", action="store_true", help="say more, and show a traceback on errors"
    )
    made.add_argument("-q", "--quiet", action="store_true", help="only errors on stderr")
    return made


def execute(
    made: Parser,
    run: Callable[[argparse.Namespace], int],
    argv: Sequence[str] | None,
) -> int:
    """Parse, run, and return the exit code. Errors become one line on stderr.

    Args:
        made: from `parser`.
        run: the command's work; imports what is heavy itself, so wrong use is answered at once.
        argv: arguments without the program's name; None takes the process's own.
    """
    # Python has no stream where the caller closed one (`>&-`).
    sys.stdout, sys.stderr = (stream or _nowhere() for stream in (sys.stdout, sys.stderr))
    args = _parse(made, argv)
    _set_up_logging(args)
    # A path may hold bytes that are no UTF-8: they go out as they came in.
    sys.stdout.reconfigure(errors="surrogateescape")
    try:
        code = run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        mute(sys.stdout)  # the reader has what it wanted (`| head`)
        return DONE
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _say(made, "interrupted" + _what_then(made, args))
        return INTERRUPTED
    except ModuleNotFoundError as error:
        package = PACKAGES.get((error.name or "").partition(".")[0])
        if package is None:
            raise
        _say(made, f"the package {package} is not installed. Fix: pip install {package}")
        return MISSING
    except (TtvrError, OSError) as error:
        if args.verbose:
            logging.getLogger(__name__).error("", exc_info=error)
        _say(made, _one_line(error))
        return getattr(error, "exit_code", FAILED)
    finally:
        try:
            sys.stderr.flush()
        except BrokenPipeError:
            mute(sys.stderr)


def _what_then(made: Parser, args: argparse.Namespace) -> str:
    if not made.resumes:
        return ""
    # Typed again with it, it would start anew.
    how = "without --overwrite" if getattr(args, "overwrite", False) else "run again"
    return f"; the same command {how} goes on from here"


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")


def _parse(made: Parser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Options may stand between positional arguments, where there are no verbs and no `--`.

    argparse can do no better: with them it takes options first or last.
    """
    has_verbs = any(action.nargs == argparse.PARSER for action in made._actions)
    ends = "--" in (sys.argv[1:] if argv is None else argv)
    return made.parse_args(argv) if has_verbs or ends else made.parse_intermixed_args(argv)


def _set_up_logging(args: argparse.Namespace) -> None:
    level = logging.DEBUG if args.verbose else logging.ERROR if args.quiet else logging.INFO
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING, force=True)
    logging.getLogger("ttvr").setLevel(level)


def _say(made: Parser, text: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(f"{made.prog}: {text}", file=sys.stderr)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and not isinstance(error, TtvrError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}"
    return " ".join(str(error).split())
