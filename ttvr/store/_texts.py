"""Writing the feature folder of texts: resumable at whole shards, rows in line order."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ttvr.store import _claim
from ttvr.store._claimed import ClaimedFolder
from ttvr.store._files import (
    COMPLETE,
    FORMAT,
    INCOMPLETE,
    META,
    PAIRS,
    TEXT_ARRAYS,
    TEXTS,
    json_bytes,
    read_array,
    read_meta,
    shard_name,
    write_whole,
)


class TextWriter(ClaimedFolder):
    """Fills a text folder, row by row. Rows of an unfinished shard are written again.

    Args:
        folder: the text folder; made where there is none.
        texts: one per row, each one line.
        model: as `Retriever.identity` gives it.
        words: L, positions of `words` and `mask`.
        facts: what else has to agree for going on: how long texts are treated, ...
        provenance: who made it, how, when.
        pairs: (row of a text, video id): what `gt.tsv` says; None leaves the one that is there.
        data: the dataset and the split that the texts are of; None where they are of neither.
        dtype: of text and words: <f2 or <f4.
        shard_rows: rows of every shard but the last.
        resume: go on with what is there.
        overwrite: remove what is there.
    """

    def __init__(
        self,
        folder: Path,
        texts: Sequence[str],
        *,
        model: Mapping[str, Any],
        words: int,
        facts: Mapping[str, Any],
        provenance: Mapping[str, Any],
        pairs: Sequence[tuple[int, str]] | None,
        data: Mapping[str, str] | None = None,
        dtype: str,
        shard_rows: int,
        resume: bool = True,
        overwrite: bool = False,
    ) -> None:
        self._content = "".join(f"{text}\n" for text in texts).encode()
        digest = hashlib.sha256(self._content).hexdigest()
        super().__init__(
            folder,
            TEXT_ARRAYS,
            shared={
                "kind": "text",
                "dtype": dtype,
                "shard_rows": shard_rows,
                "words": words,
                "texts": {"sha256": f"sha256:{digest}", **facts},
                "model": {key: value for key, value in model.items() if key != "source"},
                "provenance": {"precision": provenance.get("precision")},
                "data": None if data is None else dict(data),
            },
            shard_rows=shard_rows,
            resume=resume,
            overwrite=overwrite,
        )
        self._count, self._shard_rows = len(texts), shard_rows
        self._model, self._provenance = model, provenance
        self._pairs = None
        if pairs is not None:
            self._pairs = "".join(f"{row}\t{video}\n" for row, video in pairs).encode()

    @property
    def done(self) -> int:
        """Rows that are there: the first ones."""
        return self._shards.rows

    def add(self, row: Mapping[str, np.ndarray]) -> None:
        """Write the next row: text [E] unit, words [L, D], mask [L] bool."""
        self._shards.append(row)
        if self._shards.is_full:
            self._shards.close_shard()

    def finish(self) -> dict[str, Any]:
        """Close the last shard, mark the folder complete; returns `meta.json`."""
        if self.done != self._count:
            raise ValueError(f"{self.done} of {self._count} texts done")
        self._shards.close_shard()
        if self._pairs is not None:
            write_whole(self._folder / PAIRS, self._pairs)
        meta = self._write_meta(COMPLETE)
        _claim.clear_partial(self._folder)
        return meta

    def _take_over(self) -> None:
        folder = self._folder
        is_complete = (folder / META).exists() and read_meta(folder)["state"] == COMPLETE
        if is_complete:
            self._shards.check(self._count)
        self._write_meta(INCOMPLETE)
        write_whole(folder / TEXTS, self._content)
        whole = self._whole_shards() * self._shard_rows
        self._shards.resume(self._count if is_complete else whole)

    def _holds_all(self, meta: Mapping[str, Any]) -> bool:
        path = self._folder / PAIRS
        return self._pairs is None or (path.exists() and path.read_bytes() == self._pairs)

    def _whole_shards(self) -> int:
        """Full shards that every array has; a short last one is written again."""
        count = 0
        while (count + 1) * self._shard_rows <= self._count and all(
            self._is_full(name, count) for name in TEXT_ARRAYS
        ):
            count += 1
        return count

    def _is_full(self, name: str, shard: int) -> bool:
        path = self._folder / name / shard_name(shard)
        return path.exists() and len(read_array(path)) == self._shard_rows

    def _write_meta(self, state: str) -> dict[str, Any]:
        text = self._shards.row_shape("text")
        meta = {
            "format": FORMAT,
            "state": state,
            "count": self._count,
            "dim": text[0] if text else None,
            **{key: value for key, value in self._shared.items() if value is not None},
            "model": dict(self._model),
            "provenance": dict(self._provenance),
        }
        write_whole(self._folder / META, json_bytes(meta))
        return meta
