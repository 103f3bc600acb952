"""Commands that do one of several things: `ttvr-weights fetch`, `ttvr-data synth`."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from ttvr.commands import _options


class Verbs:
    """The verbs of a command, of which one has to be given; `run_verb` does it.

    Args:
        command: its parser; exit codes and layout of every verb's help are those of it.
    """

    def __init__(self, command: argparse.ArgumentParser) -> None:
        self._command = command
        self._parsers = command.add_subparsers(
            title="what to do", metavar="VERB", required=True, help="each has --help"
        )

    def add(
        self,
        run: Callable[[argparse.Namespace], int],
        summary: str,
        examples: str,
        *shared: str,
    ) -> argparse.ArgumentParser:
        """The parser of one more verb.

        Args:
            run: does it and returns the exit code; the verb is called as this is, without `_`.
            summary: what it does, without a full stop.
            examples: calls that work, one a line, without the command's own name.
            shared: options of `_options`.
        """
        exit_codes = self._command.epilog.splitlines()[-1]
        calls = [f"  {self._command.prog} {line}" for line in examples.splitlines()]
        title = "example:" if len(calls) == 1 else "examples:"
        one = self._parsers.add_parser(
            run.__name__.removeprefix("_"),
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog="\n".join([title, *calls, "", exit_codes]),
            formatter_class=self._command.formatter_class,
            allow_abbrev=False,
        )
        for flags, text in ((("-v", "--verbose"), "say more"), (("-q", "--quiet"), "say less")):
            one.add_argument(
                *flags, action="store_true", default=argparse.SUPPRESS, help=f"{text} on stderr"
            )
        _options.add(one, *shared)
        one.set_defaults(verb=run)
        return one


def run_verb(args: argparse.Namespace) -> int:
    """Do what the verb says; the exit code is returned."""
    return args.verb(args)
