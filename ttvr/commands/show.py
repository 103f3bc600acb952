"""`ttvr-show`: what was found as a contact sheet, what clustering keeps, what a head looks at."""

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
from ttvr.commands._show_attention import ONLY_ATTENTION, add_attention, draw_attention
from ttvr.commands._show_centers import ONLY_CENTERS, Drawn, add_centers, draw_centers
from ttvr.commands._target import new_file
from ttvr.errors import TtvrError, UsageError
from ttvr.files import written

if TYPE_CHECKING:
    from PIL.Image import Image

    from ttvr.show import Row, Sheet

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
ONLY_HITS = ("top", "columns")
OF_MODEL = ("weights", "device", "activation")

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw; the exit code is returned."""
    return execute(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    made = parser(
        "show",
        summary="Lines of `ttvr-rank --json` -> a contact sheet: for each query the frames that\n"
        "were found, with rank, time, id and score.\n"
        "With --centers: a video, or a folder of images -> its frames with the patches that token\n"
        "clustering keeps, a row per --reduce (CenterCLIP, Figure 5; with --map Figure 1 too).\n"
        "With --attention: a video and a sentence -> its frames, and how much each counts for the\n"
        "sentence and for each word (TC-MGC, Figure 11).\n"
        "The path of the picture goes to stdout.",
        examples=[
            "ttvr-rank queries.txt feats/ --json | ttvr-show - -o hits.png",
            "ttvr-show hits.jsonl -o hits.png -k 3 --columns 3 --width 1200 --overwrite",
            "ttvr-show --centers video.mp4 -o centers.png",
            "ttvr-show --centers video.mp4 -o two.png --reduce kmedoids@2:4,16 "
            "--reduce spectral@2:4,16 --map",
            "ttvr-show --attention video.mp4 --query 'a man sings' -w run.pt -o attention.png",
        ],
    )
    made.add_argument("hits", metavar="HITS", nargs="?", help="file of JSON lines, - is stdin")
    sheet = made.add_argument_group("contact sheet")
    _options.add(sheet, "top")
    sheet.add_argument(
        "--columns", type=_options.positive, default=5, metavar="N", help="tiles side by side"
    )
    add_centers(made.add_argument_group("cluster centers"))
    add_attention(made.add_argument_group("attention"))
    _options.add(
        made.add_argument_group("model, with --centers or --attention"), "weights", "device"
    )
    output = made.add_argument_group("output")
    output.add_argument(
        "--width", type=_options.positive, default=1600, metavar="N", help="of the picture, pixels"
    )
    _options.add(output, "out", "overwrite", "json", "progress")
    return made


def _run(args: argparse.Namespace) -> int:
    mode = _mode(args)
    out = _output(args)
    if mode == "hits":
        return _run_hits(args, out)
    draw = {"centers": draw_centers, "attention": draw_attention}[mode]
    return _finish(args, out, getattr(args, mode), draw(args, tallest=_tallest(out)))


def _mode(args: argparse.Namespace) -> str:
    """What is shown: hits, centers or attention.

    Raises:
        UsageError: none of them or several, or flags of another one.
    """
    given = [mode for mode in ("hits", "centers", "attention") if getattr(args, mode) is not None]
    if len(given) != 1:
        raise UsageError(
            "expected either HITS, a file of `ttvr-rank --json`, or --centers VIDEO, or "
            "--attention VIDEO"
        )
    default = _parser().get_default
    for names, modes in (
        (ONLY_HITS, ("hits",)),
        (ONLY_CENTERS, ("centers",)),
        (ONLY_ATTENTION, ("attention",)),
        (OF_MODEL, ("centers", "attention")),
    ):
        ignored = [f"--{name}" for name in names if getattr(args, name) != default(name)]
        if ignored and given[0] not in modes:
            others = " or ".join(f"--{mode}" for mode in modes)
            which = f"without --{given[0]}" if modes == ("hits",) else f"with {others}"
            raise UsageError(f"{', '.join(ignored)}: only {which}")
    return given[0]


def _run_hits(args: argparse.Namespace, out: Path) -> int:
    from ttvr.show import contact_sheet

    rows = read_rows(args.hits, top=args.top)
    total = sum(len(row.shots) for row in rows)
    with Progress("thumbnails", total=total, mode=args.progress, quiet=args.quiet) as progress:
        sheet = contact_sheet(
            rows,
            width=args.width,
            columns=args.columns,
            tallest=_tallest(out),
            on_step=lambda is_failed: progress.step(failed=is_failed),
        )
    _save(sheet.image, out)
    for path, error in sheet.failures.items():
        log.warning("%s: %s", path, error)
    _report(args, out, sheet.image, _summary(sheet, queries=len(rows), thumbnails=total))
    return PARTIAL if sheet.failures else DONE


def _finish(args: argparse.Namespace, out: Path, video: str, drawn: Drawn) -> int:
    _save(drawn.image, out)
    _report(args, out, drawn.image, drawn.facts)
    if drawn.is_partial:
        log.warning("%s: partial: it ends early, or its decoder met errors", video)
        return PARTIAL
    return DONE


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
    """Where the picture goes, before any work is done.

    Raises:
        UsageError: no place, no image by its suffix, or as `new_file`.
    """
    if args.out is None:
        raise UsageError("-o is missing: where to write the picture")
    if Path(args.out).suffix.lower() not in SUFFIXES:
        raise UsageError(f"{args.out}: expected one of {', '.join(SUFFIXES)}")
    return new_file(args.out, overwrite=args.overwrite)


def _tallest(out: Path) -> int:
    from ttvr.show import TALLEST, WIDEST

    return WIDEST if out.suffix.lower() == ".webp" else TALLEST


def _save(image: Image, out: Path) -> None:
    with written(out) as partial_file:
        image.save(partial_file)


def _report(args: argparse.Namespace, out: Path, image: Image, facts: dict[str, Any]) -> None:
    if args.json:
        facts = {"out": str(out), "width": image.width, "height": image.height, **facts}
        sys.stdout.write(json.dumps(facts) + "\n")
    else:
        sys.stdout.write(f"{out}\n")


def _summary(sheet: Sheet, *, queries: int, thumbnails: int) -> dict[str, Any]:
    return {
        "queries": queries,
        "thumbnails": thumbnails,
        "failed": [
            {"path": path, "error": error.code, "detail": error.detail}
            for path, error in sheet.failures.items()
        ],
    }
