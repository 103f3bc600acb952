"""ttvr-data import: files per video to a feature folder."""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ttvr import __version__
from ttvr.commands import _options
from ttvr.commands._extract_model import provenance
from ttvr.commands._progress import Progress
from ttvr.commands._run import DONE, FAILED, PARTIAL
from ttvr.commands._target import new_folder
from ttvr.commands._verbs import Verbs
from ttvr.errors import UsageError
from ttvr.wording import counted

if TYPE_CHECKING:
    from ttvr.extract import Summary
    from ttvr.retriever import Retriever
    from ttvr.store import Files

_TOLD = ("weights", "activation", "frames", "dtype")  # by an export, of itself

log = logging.getLogger(__name__)


def add_import(verbs: Verbs) -> None:
    """Add the verb `import` to `ttvr-data`."""
    summary = (
        "make a feature folder of files per video, ID.npy [frames, width] of float16, 32 or 64 and "
        "ID.json where there is one, as `ttvr-data export --per-video` or clip-video-encode writes "
        "them. Which CLIP encoded the frames only you know: -w; an export says it itself. stdout: "
        "the folder. Exit 3: files are of no use and have no row (listed on stderr)"
    )
    examples = "import files/ -o feats/ -w ViT-B/32\nimport exported/ -o feats/"
    one = verbs.add(_import, summary, examples, "weights", "overwrite", "progress", "json")
    one.add_argument("source", metavar="DIR", help="folder of the files")
    one.add_argument("-o", "--out", required=True, metavar="FEATS", help="the feature folder")
    one.add_argument(
        "--frames",
        type=_options.positive,
        metavar="N",
        help="of a row: shorter videos are padded, longer ones have no row (default: those of the "
        "longest)",
    )
    one.add_argument(
        "--dtype", choices=("float16", "float32"), help="of what is written (default: float16)"
    )
    one.set_defaults(weights=None)


def _import(args: argparse.Namespace) -> int:
    out, source = new_folder(args.out), Path(args.source)
    if out.resolve().is_relative_to(source.resolve()):
        raise UsageError(f"{out} lies within {source}, whose arrays it is for; name another -o")
    from ttvr import extract, store

    files = store.find_per_video(source)
    if files.others:
        log.info("%s: passed over, as no array: %s", source, counted(files.others, "file"))
    retriever = _model(args, files)
    facts = {"imported": str(source.resolve())}
    if retriever is None:
        facts["imported_with"] = {"ttvr": __version__, "argv": shlex.join(sys.argv)}
    else:
        facts |= {**provenance(retriever), "precision": None}
    began = time.monotonic()
    shown = Progress("videos", total=len(files.sources), mode=args.progress, quiet=args.quiet)
    with shown as progress:
        summary = extract.run_import(
            files,
            out,
            retriever=retriever,
            frames=args.frames,
            dtype=args.dtype or "float16",
            provenance=facts,
            overwrite=args.overwrite,
            on_step=lambda status, kept: progress.step(
                failed=status == "failed", skipped=int(kept)
            ),
        )
    return _report(args, summary, files, time.monotonic() - began)


def _model(args: argparse.Namespace, files: Files) -> Retriever | None:
    """The model that encoded the frames; None where an export tells.

    Raises:
        UsageError: nobody tells, or both do.
    """
    from ttvr import retriever, store

    if files.origin is None:
        if args.weights is None:
            raise UsageError(
                f"which CLIP encoded the frames of {args.source}? pass its checkpoint with -w; "
                "ttvr-weights list shows names"
            )
        return retriever.load(args.weights, "meanp", ("none",), activation=args.activation)
    told = [f"--{name}" for name in _TOLD if getattr(args, name) is not None]
    if told:
        raise UsageError(
            f"{', '.join(told)}: {files.folder / store.ORIGIN} tells that; leave it out, or remove "
            "the file where the arrays are others"
        )
    return None


def _report(args: argparse.Namespace, summary: Summary, files: Files, seconds: float) -> int:
    for path, reason in files.unnamed:
        print(f"{str(path)!r}: left out: {reason}", file=sys.stderr)
    failed = [problem for problem in summary.problems if problem.status == "failed"]
    for problem in failed:
        print(f"{problem.path}: failed: {problem.reason}", file=sys.stderr)
    count = summary.meta["count"]
    log.info(
        "%s in %s (%d kept, %d failed, %d left out), %.1f s",
        *(
            counted(count, "video"),
            args.out,
            summary.kept,
            len(failed),
            len(files.unnamed),
            seconds,
        ),
    )
    facts = {
        "out": args.out,
        "count": count,
        "kept": summary.kept,
        "failed": {problem.path: problem.reason for problem in failed},
        "left_out": {str(path): reason for path, reason in files.unnamed},
        "seconds": round(seconds, 3),
    }
    print(json.dumps(facts, ensure_ascii=False) if args.json else args.out)
    if not count:
        print("ttvr-data: no file gave features", file=sys.stderr)
        return FAILED
    return PARTIAL if failed or files.unnamed else DONE
