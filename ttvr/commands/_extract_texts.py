"""ttvr-extract --text: captions to a folder of text features."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ttvr.commands._extract_model import load_model, provenance
from ttvr.commands._extract_options import SPLIT
from ttvr.commands._progress import Progress
from ttvr.commands._run import DONE
from ttvr.commands._texts import read_queries
from ttvr.errors import UsageError

if TYPE_CHECKING:
    from ttvr.retriever import Retriever

Texts = tuple[Sequence[str], list[tuple[int, str]] | None, dict[str, str] | None]
"""Sentences; (row, video id) pairs or None; the dataset and the split that they are of or None."""


def run_texts(args: argparse.Namespace) -> int:
    """Extract text features; the exit code is returned."""
    from ttvr import extract, store
    from ttvr.search import encode_texts, report_unknown

    texts, pairs, data = _of_dataset(args) if args.data is not None else _of_file(args)
    shared = {"kind": "text", "dtype": extract.DTYPES[args.dtype], "shard_rows": args.shard_rows}
    shared["data"] = data
    store.check_usable(Path(args.out), shared, resume=args.resume, overwrite=args.overwrite)
    retriever = load_model(args)
    words = _positions(args.words, retriever)
    report_unknown(retriever, texts, what="texts")
    with Progress("texts", total=len(texts), mode=args.progress, quiet=args.quiet) as progress:
        meta, long = extract.run_texts(
            texts,
            Path(args.out),
            retriever=retriever,
            encode=partial(
                encode_texts, retriever, batch_size=args.batch_size, length=words, words=True
            ),
            options=extract.TextOptions(words, args.on_long, args.dtype, args.shard_rows),
            provenance={**provenance(retriever), "precision": "fp32"},
            pairs=pairs,
            data=data,
            resume=args.resume,
            overwrite=args.overwrite,
            on_step=lambda count, skipped: progress.step(skipped=skipped or count),
        )
    if args.json:
        print(json.dumps({"out": args.out, "count": meta["count"], "truncated": long}))
    else:
        print(args.out)
    return DONE


def _positions(asked: int | None, retriever: Retriever) -> int:
    """Tokens of a text that are stored.

    Raises:
        UsageError: the model has fewer positions, or the head is made for another number.
    """
    words = asked or retriever.text_length
    if words > retriever.clip.context_length:
        raise UsageError(f"--words {words}: the model takes {retriever.clip.context_length}")
    if retriever.head.needs_words and words != retriever.text_length:
        raise UsageError(
            f"--words {words}: the head {retriever.head_name} takes {retriever.text_length}"
        )
    return words


def _of_file(args: argparse.Namespace) -> Texts:
    texts = [query.text for query in read_queries(args.text, what="texts")]
    return texts, _pairs(args.gt, texts) if args.gt else None, None


def _of_dataset(args: argparse.Namespace) -> Texts:
    """The captions of a split, each with the id of its clip.

    Raises:
        UsageError, TtvrError: as `Dataset.load`.
    """
    from ttvr import datasets
    from ttvr.evaluate import Pairs

    dataset, name = datasets.load(args.data), args.split or SPLIT
    root = None if args.root is None else Path(args.root)
    found = Pairs.of(dataset.load(root, name, limit=args.limit))
    return found.captions, list(enumerate(found.videos)), {"dataset": dataset.name, "split": name}


def _pairs(name: str, texts: Sequence[str]) -> list[tuple[int, str]]:
    """(row of the text, video id) for lines of caption<TAB>video id.

    Where a caption stands on several lines of both files they are matched in order.

    Raises:
        UsageError: a caption is not among the texts.
    """
    from ttvr.evaluate import read_pairs

    rows: dict[str, list[int]] = defaultdict(list)
    for row, text in enumerate(texts):
        rows[text].append(row)
    found = read_pairs(name)
    pairs = []
    for number, (caption, video) in enumerate(zip(found.captions, found.videos, strict=True), 1):
        if caption not in rows:
            raise UsageError(f"{found.name}:{number}: its caption is not among the texts")
        left = rows[caption]
        pairs.append((left.pop(0) if len(left) > 1 else left[0], video))
    return pairs
