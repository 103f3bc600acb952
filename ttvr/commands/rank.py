"""`ttvr-rank`: sentences and a feature folder -> ranked videos."""

from __future__ import annotations

import argparse
import errno
import json
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from ttvr.commands import _options
from ttvr.commands._run import DONE, execute, parser
from ttvr.commands._texts import Query, read_queries
from ttvr.commands._threads import spare_threads
from ttvr.commands._toy import warn_of_toy
from ttvr.errors import TtvrError, UsageError
from ttvr.wording import counted

if TYPE_CHECKING:
    from ttvr.search import Hits

COLUMNS = ("query", "rank", "score", "id", "time", "path")
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})

Write = Callable[["Hits"], str]


def main(argv: Sequence[str] | None = None) -> int:
    """Rank; the exit code is returned."""
    return execute(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    made = parser(
        "rank",
        summary="Sentences and a folder of video features -> the best videos for each.\n"
        "QUERIES: UTF-8, one query per line, optionally `id<TAB>text`; blank lines are skipped\n"
        "and not counted; - is stdin.\n"
        "Output: lines of `query rank score id time path`, tab-separated. query is the id or else\n"
        "the number from 0, time the second at which the frame that fits best is shown; in ids\n"
        "and paths a tab is written \\t, a newline \\n, a return \\r, a backslash \\\\. A line\n"
        "with the names of the columns comes first on a terminal, but not in a file or a pipe.",
        examples=[
            'ttvr-rank --query "a dog catches a frisbee" feats/ -k 3',
            "ttvr-rank queries.txt feats/ --json | ttvr-show - -o hits.png",
            'ttvr-rank --query "sunset at the sea" feats/ --ids -0 | xargs -0 cp -t sunsets/',
            "ttvr-rank queries.txt feats/ -w runs/x/best.pt --rerank 100",
        ],
    )
    made.usage = "%(prog)s [options] QUERIES FEATS\n       %(prog)s [options] --query TEXT FEATS"
    made.add_argument(
        "inputs",
        nargs="+",
        metavar="QUERIES FEATS",
        help="file of queries or -, then the feature folder; with --query the folder alone",
    )
    _add_queries(made.add_argument_group("queries"))
    _add_model(made.add_argument_group("model (by default the one that made the features)"))
    output = made.add_argument_group("output")
    _options.add(output, "top")
    shape = output.add_mutually_exclusive_group()
    shape.add_argument(
        "--json",
        action="store_true",
        help='a line {"query":0,"text":"...","hits":[...]} per query, with "id" where it has one',
    )
    shape.add_argument("--ids", action="store_true", help="bare paths, one per line, for xargs")
    output.add_argument(
        "-0", "--null", action="store_true", help="with --ids: end paths by NUL, not newline"
    )
    made.set_defaults(weights=None)
    return made


def _add_queries(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--query", action="append", default=[], metavar="TEXT", help="a query; repeatable"
    )
    group.add_argument(
        "--on-long",
        choices=("truncate", "error"),
        default="truncate",
        help="queries of more tokens than the model or its head takes",
    )


def _add_model(group: argparse._ArgumentGroup) -> None:
    _options.add(group, "weights", "head", "device", "memory")
    group.add_argument(
        "--rerank",
        type=_options.positive,
        metavar="N",
        help="of a head that scores pairs: find N candidates by the vectors of the videos, and "
        "score only those (default: all videos)",
    )


def _run(args: argparse.Namespace) -> int:
    source, folder = _inputs(args)
    if args.rerank is not None and args.rerank < args.top:
        raise UsageError(f"--rerank {args.rerank}: hits are candidates, so at least -k {args.top}")
    queries = [Query(None, text) for text in args.query] if source is None else _read(source)
    if blank := [number for number, query in enumerate(queries) if not query.text.strip()]:
        raise UsageError(f"query {blank[0]} is blank")
    from ttvr.search import open_model, search
    from ttvr.store import Features

    features = Features.open(folder)
    retriever = open_model(
        features,
        weights=args.weights,
        head=args.head,
        activation=args.activation,
        device=args.device,
    )
    spare_threads(retriever)
    warn_of_toy(retriever.note, features.ids)
    found = search(
        retriever,
        features,
        [query.text for query in queries],
        top=args.top,
        ids=[query.id for query in queries],
        on_long=args.on_long,
        rerank=args.rerank,
        memory=args.memory,
    )
    _print(found, args)
    return DONE


def _inputs(args: argparse.Namespace) -> tuple[str | None, str]:
    """Where the queries are, None if they are in the arguments, and the feature folder."""
    if args.null and not args.ids:
        raise UsageError("-0 goes with --ids")
    wanted = 1 if args.query else 2
    if args.query and len(args.inputs) == 2:
        raise UsageError(f"QUERIES or --query, not both; got {args.inputs[0]} and --query")
    if len(args.inputs) != wanted:
        what = "only the feature folder" if args.query else "QUERIES and the feature folder"
        raise UsageError(
            f"expected {what}, got {counted(len(args.inputs), 'argument')}: {args.inputs}"
        )
    return None if args.query else args.inputs[0], args.inputs[-1]


def _read(source: str) -> list[Query]:
    """The queries of a file; says what to do where it is a folder, or a sentence."""
    try:
        return read_queries(source)
    except IsADirectoryError as error:
        raise UsageError(
            f"{source} is a folder; the file of queries comes first, then the folder"
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            raise
        raise TtvrError(
            f"{source}: {error.strerror}; to rank one sentence: --query {shlex.quote(source)}"
        ) from error


def _print(found: Iterable[Hits], args: argparse.Namespace) -> None:
    write = _as_json if args.json else _as_tsv
    if args.ids:
        end = "\0" if args.null else "\n"

        def write(hits: Hits) -> str:
            return "".join(hit.path + end for hit in hits.hits)

    # A path that is not UTF-8 comes out as its own bytes, in JSON as an escape that json reads
    # back to the same path.
    errors = "backslashreplace" if args.json else "surrogateescape"
    sys.stdout.reconfigure(encoding="utf-8", errors=errors, newline="")
    if sys.stdout.isatty() and not (args.json or args.ids):
        sys.stdout.write("\t".join(COLUMNS) + "\n")
    for hits in found:
        sys.stdout.write(write(hits))
        sys.stdout.flush()


def _as_tsv(found: Hits) -> str:
    query = str(found.query) if found.id is None else found.id
    lines = []
    for hit in found.hits:
        time = "" if hit.time is None else f"{hit.time:.2f}"
        cells = (query, str(hit.rank), f"{hit.score:.4f}", hit.id, time, hit.path)
        lines.append("\t".join(cell.translate(_ESCAPES) for cell in cells) + "\n")
    return "".join(lines)


def _as_json(found: Hits) -> str:
    entry: dict[str, object] = {"query": found.query, "text": found.text}
    if found.id is not None:
        entry = {"query": found.query, "id": found.id, "text": found.text}
    entry["hits"] = [
        hit._replace(
            score=round(hit.score, 6), time=None if hit.time is None else round(hit.time, 3)
        )._asdict()
        for hit in found.hits
    ]
    return json.dumps(entry, ensure_ascii=False, separators=(",", ":")) + "\n"
