"""`ttvr-bench`: speed and memory of each part side by side, as a table."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from ttvr import plugins
from ttvr.commands import _options
from ttvr.commands._run import DONE, execute, parser

_EXAMPLES = {
    "cluster": "ttvr-bench cluster --sizes 64,147,49 --rounds 5",
    "encode": "ttvr-bench encode --sizes ViT-B/32 --rounds 7",
    "extract": "ttvr-bench extract videos/ -w ViT-B/32 --jobs 1 2",
    "load": "ttvr-bench load videos/ --jobs 1 2 --frames 12",
    "memory": "ttvr-bench memory --sizes ViT-B/32",
    "rank": "ttvr-bench rank --rows 1000000 --queries 1 8 64",
    "score": "ttvr-bench score --heads tc_mgc xpool --rounds 3",
    "startup": "ttvr-bench startup",
    "tokenize": "ttvr-bench tokenize --texts 20000",
    "train": "ttvr-bench train --sizes ViT-B/32 --videos 128 --steps 20 --precision bf16",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one benchmark; the exit code is returned."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parts = plugins.names("bench")
    what = next((argument for argument in arguments if argument in parts), None)
    return execute(_parser(what), _run, arguments)


def _parser(what: str | None) -> argparse.ArgumentParser:
    choices = plugins.names("bench")
    examples = [_EXAMPLES[what]] if what else [_EXAMPLES[name] for name in choices]
    made = parser(
        "bench",
        summary="Measure speed and memory of a part side by side (A B A B, medians).\n"
        "Each part has options of its own: ttvr-bench PART --help.",
        examples=examples,
    )
    made.add_argument("part", choices=choices, help="what is measured")
    _options.add(made, "json")
    if what:
        module = import_module(f"ttvr.bench.{what}")
        made.description = module.__doc__
        module.add_arguments(made.add_argument_group(f"options of {what}"))
    return made


def _run(args: argparse.Namespace) -> int:
    table = plugins.load("bench", args.part)(args)
    if args.json:
        rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
        facts = {"title": table.title, "rows": rows, "notes": table.notes}
        print(json.dumps(facts))
        return DONE
    print(table.title)
    cells = [table.columns, *[tuple(map(_cell, row)) for row in table.rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        texts = [row[0].ljust(widths[0])]
        texts += [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join(texts).rstrip())
    for note in table.notes:
        print(note)
    return DONE


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
