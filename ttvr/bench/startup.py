"""Seconds until a command answers: --help and wrong use, beside the bare interpreter and torch."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ttvr import plugins
from ttvr.bench._table import Table, alternate, median

ROOT = Path(__file__).parents[2]
TARGET_SECONDS = 0.3


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """Options of this benchmark."""
    group.add_argument("--rounds", type=int, default=5, help="runs of each, in turn")


def run(args: argparse.Namespace) -> Table:
    """Whole processes, timed from outside."""
    contenders = {
        "python -c pass": _process("-c", "pass"),
        "import torch": _process("-c", "import torch"),
        "rank, wrong use": _process("-m", "ttvr", "rank", "--no-such-flag"),
    }
    for verb in plugins.names("commands"):
        contenders[f"{verb} --help"] = _process("-m", "ttvr", verb, "--help")
    seconds = alternate(contenders, rounds=args.rounds)
    floor = median(seconds["python -c pass"])
    rows = [(name, median(runs), median(runs) / floor) for name, runs in seconds.items()]
    slowest = max(median(seconds[name]) for name in contenders if name.endswith("--help"))
    return Table(
        title="start-up",
        columns=("process", "seconds", "over the bare interpreter"),
        rows=rows,
        notes=[f"slowest --help {slowest:.3f} s, target {TARGET_SECONDS} s"],
    )


def _process(*arguments: str) -> Callable[[], object]:
    command = [sys.executable, *arguments]
    return lambda: subprocess.run(command, cwd=ROOT, capture_output=True, check=False)


PLUGIN = run
