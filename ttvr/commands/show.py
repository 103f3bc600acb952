"""`ttvr-show`: what `ttvr-rank --json` found, as a contact sheet."""

from __future__ import annotations

import argparse
import json
import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttvr.commands import _options
from ttvr.commands._progress import Progress
from ttvr.commands._run import DONE, PARTIAL, execute, parser
from ttvr.commands._target import new_file
from ttvr.errors import TtvrError, UsageError
from ttvr.files import written

if TYPE_CHECKING:
    from ttvr.show import Row, Sheet

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw; the exit code is returned."""
    return execute(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    made = parser(
        "show",
        summary="Lines of `ttvr-rank --json` -> a contact sheet: for each query the frames that\n"
        "were found, with rank, time, id and score. The path of the sheet goes to stdout.",
        examples=[
            "ttvr-rank queries.txt feats/ --json | ttvr-show - -o hits.png",
            "ttvr-show hits.jsonl -o hits.png -k 3 --columns 3 --width 1200 --overwrite",
        ],
    )
    made.add_argument("hits", metavar="HITS", help="file of JSON lines, - is stdin")
    sheet = made.add_argument_group("sheet")
    _options.add(sheet, "top")
    sheet.add_argument(
        "--columns", type=_options.positive, default=5, metavar="N", help="tiles side by side"
    )
    sheet.add_argument(
        "--width", type=_options.positive, default=1600, metavar="N", help="of the sheet, pixels"
    )
    output = made.add_argument_group("output")
    _options.add(output, "out", "overwrite", "json", "progress")
    return made


def _run(args: argparse.Namespace) -> int:
    out = _output(args)
    from ttvr.show import TALLEST, WIDEST, contact_sheet

    rows = read_rows(args.hits, top=args.top)
    total = sum(len(row.shots) for row in rows)
    with Progress("thumbnails", total=total, mode=args.progress, quiet=args.quiet) as progress:
        sheet = contact_sheet(
            rows,
            width=args.width,
            columns=args.columns,
            tallest=WIDEST if out.suffix.lower() == ".webp" else TALLEST,
            on_step=lambda is_failed: progress.step(failed=is_failed),
        )
    _save(sheet, out)
    for path, error in sheet.failures.items():
        log.warning("%s: %s", path, error)
    if args.json:
        sys.stdout.write(_summary(sheet, out, queries=len(rows), thumbnails=total))
    else:
        sys.stdout.write(f"{out}\n")
    return PARTIAL if sheet.failures else DONE


def read_rows(path: str, *, top: int) -> list[Row]:
    """The queries and hits of a file, "-" is stdin; `top` hits of each at most.

    Raises:
        OSError: the file cannot be read.
        TtvrError: nothing in it, or a line that `ttvr-rank --json` did not write; names the line.
    """
    content = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    name = "stdin" if path == "-" else path
    rows = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(_row(json.loads(line.decode("utf-8")), top))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            why = f"no {error}" if isinstance(error, KeyError) else error
            raise TtvrError(f"{name}:{number}: not a line of `ttvr-rank --json`: {why}") from error
    if not rows:
        raise TtvrError(f"{name}: no queries; expected lines of `ttvr-rank --json`")
    return rows


def _row(entry: Any, top: int) -> Row:
    from ttvr.show import Row, Shot

    if not isinstance(entry, dict) or not isinstance(entry["hits"], list):
        raise TypeError("expected an object with hits")
    shots = []
    for hit in entry["hits"][:top]:
        time = None if hit["time"] is None else _number(hit["time"], "time")
        if time is not None and time < 0:
            raise ValueError(f"time {time}")
        score = _number(hit["score"], "score")
        rank = hit["rank"]
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise TypeError(f"rank is {rank!r}, expected a whole number from 1")
        shots.append(Shot(rank, _text(hit, "id"), _text(hit, "path"), score, time))
    return Row(str(entry.get("id", entry["query"])), _text(entry, "text"), tuple(shots))


def _text(entry: dict[str, Any], key: str) -> str:
    if not isinstance(entry[key], str):
        raise TypeError(f"{key} is {entry[key]!r}, expected text")
    return entry[key]


def _number(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TypeError(f"{key} is {value!r}, expected a number")
    return float(value)


def _output(args: argparse.Namespace) -> Path:
    """Where the sheet goes, before any work is done.

    Raises:
        UsageError: no place, no image by its suffix, or as `new_file`.
    """
    if args.out is None:
        raise UsageError("-o is missing: where to write the sheet")
    if Path(args.out).suffix.lower() not in SUFFIXES:
        raise UsageError(f"{args.out}: expected one of {', '.join(SUFFIXES)}")
    return new_file(args.out, overwrite=args.overwrite)


def _save(sheet: Sheet, out: Path) -> None:
    with written(out) as partial:
        sheet.image.save(partial)


def _summary(sheet: Sheet, out: Path, *, queries: int, thumbnails: int) -> str:
    facts = {
        "out": str(out),
        "width": sheet.image.width,
        "height": sheet.image.height,
        "queries": queries,
        "thumbnails": thumbnails,
        "failed": [
            {"path": path, "error": error.code, "detail": error.detail}
            for path, error in sheet.failures.items()
        ],
    }
    return json.dumps(facts) + "\n"
