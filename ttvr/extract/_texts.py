"""Texts -> text folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ttvr.clip import tokenizer
from ttvr.errors import TtvrError, UsageError
from ttvr.extract._options import DTYPES
from ttvr.records import TextFeatures
from ttvr.retriever import Retriever
from ttvr.store import TextWriter

BLOCK = 512  # texts encoded together at most, so that memory does not grow with the file


class TextOptions(NamedTuple):
    """How text features are made.

    Attributes:
        words: L, positions of `words/`: tokens of a text, start and end included.
        on_long: what happens to a text of more: truncate (end-of-text is kept) or error.
        dtype: float16 or float32, of what is written.
        shard_rows: rows per file.
    """

    words: int
    on_long: str = "truncate"
    dtype: str = "float16"
    shard_rows: int = 8192


def run_texts(
    texts: Sequence[str],
    folder: Path,
    *,
    retriever: Retriever,
    encode: Callable[[Sequence[str]], TextFeatures],
    options: TextOptions,
    provenance: Mapping[str, Any],
    pairs: Sequence[tuple[int, str]] | None = None,
    data: Mapping[str, str] | None = None,
    resume: bool = True,
    overwrite: bool = False,
    on_step: Callable[[int, int], None] = lambda count, skipped: None,
) -> tuple[dict[str, Any], int]:
    """Fill a text folder, or go on with it.

    Args:
        texts: one per row.
        folder: the output.
        retriever: its head makes `text/`.
        encode: texts -> their features, words [m, L, D] among them, in the order given. Padded
            positions are stored as they are: heads without a mask see them.
        options: see `TextOptions`.
        provenance: goes into `meta.json`.
        pairs: matching (text row, video id), for `gt.tsv`; None leaves the one that is there.
        data: the dataset and the split that they are of, for `meta.json`; None: of a file.
        resume: go on with what is there.
        overwrite: remove what is there.
        on_step: called with the number of texts done, and of those that were done before.

    Returns:
        The content of `meta.json`, and how many texts were too long.

    Raises:
        UsageError: there is no text, or one is too long and that is an error.
        TtvrError: of the store, or the model gives NaN.
    """
    if not texts:
        raise UsageError("no texts: every line is blank")
    long = tokenizer.count_long(texts, most=options.words, on_long=options.on_long, what="texts")
    made = TextWriter(
        folder,
        texts,
        model=retriever.identity(),
        words=options.words,
        facts={"on_long": options.on_long, "truncated": long},
        provenance=provenance,
        pairs=pairs,
        data=data,
        dtype=DTYPES[options.dtype],
        shard_rows=options.shard_rows,
        resume=resume,
        overwrite=overwrite,
    )
    meta = made.finished()
    if meta is not None:
        on_step(0, len(texts))
        return meta, long
    with made as writer:
        if writer.done:
            on_step(0, writer.done)
        while writer.done < len(texts):
            # Blocks begin where a shard does: going on gives the same blocks, so the same bytes.
            room = options.shard_rows - writer.done % options.shard_rows
            block = texts[writer.done : writer.done + min(BLOCK, room)]
            for row in _rows(retriever, encode(block), DTYPES[options.dtype]):
                writer.add(row)
            on_step(len(block), 0)
        return writer.finish(), long


@torch.inference_mode()
def _rows(
    retriever: Retriever, features: TextFeatures, dtype: str
) -> Iterator[dict[str, np.ndarray]]:
    vectors = retriever.head.vector_text(features).float().cpu().numpy().astype(dtype)
    words = features.words.float().cpu().numpy().astype(dtype)
    if not (np.isfinite(vectors).all() and np.isfinite(words).all()):
        raise TtvrError(f"the model gives NaN or infinity for a text, stored as {dtype}")
    mask = features.mask.cpu().numpy()
    for text, row, real in zip(vectors, words, mask, strict=True):
        yield {"text": text, "words": row, "mask": real}
