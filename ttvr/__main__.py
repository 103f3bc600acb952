"""`python -m ttvr <command> ...`, the same as `ttvr-<command> ...`."""

from __future__ import annotations

import sys
from importlib import import_module

from ttvr import __version__, plugins


def main(argv: list[str] | None = None) -> int:
    """Hand over to a command; its exit code is returned."""
    arguments = sys.argv[1:] if argv is None else argv
    commands = plugins.names("commands")
    if arguments and arguments[0] in commands:
        return import_module(f"ttvr.commands.{arguments[0]}").main(arguments[1:])
    usage = f"usage: python -m ttvr COMMAND ...\ncommands: {', '.join(commands)}\n"
    if arguments[:1] in (["-h"], ["--help"]):
        sys.stdout.write(usage + "Each has --help.\n")
        return 0
    if arguments[:1] == ["--version"]:
        sys.stdout.write(f"ttvr {__version__}\n")
        return 0
    what = f"no command {arguments[0]!r}" if arguments else "a command is missing"
    sys.stderr.write(f"ttvr: {what}; there are: {', '.join(commands)}\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
