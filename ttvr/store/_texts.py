"""Writing the feature folder of texts: resumable at whole shards, rows in line order."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ttvr.store import _claim
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
from ttvr.store._shards import Shards


class TextWriter:
    """Fills a text folder, row by row. Rows of an unfinished shard are written again.

    Args:
        folder: the text folder; made where there is none.
        texts: one per row, each one line.
        model: as `Retriever.identity` gives it.
        words: L, positions of `words` and `mask`.
        facts: what else has to agree for going on: how long texts are treated, ...
        provenance: who made it, how, when.
        pairs: (row of a text, video id): what `gt.tsv` says; None writes none.
        dtype: of text and words: <f2 or <f4.
        shard_rows: rows of every shard but the last.
        resume: go on with what is there.
        overwrite: remove what is there.

    Raises:
        UsageError, IncompatibleError, TtvrError: as `Writer`.
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
        dtype: str,
        shard_rows: int,
        resume: bool = True,
        overwrite: bool = False,
    ) -> None:
        self._folder, self._texts, self._pairs = folder, texts, pairs
        self._shard_rows, self._model, self._provenance = shard_rows, model, provenance
        content = "".join(f"{text}\n" for text in texts)
        digest = hashlib.sha256(content.encode()).hexdigest()
        self._shared = {
            "kind": "text",
            "dtype": dtype,
            "shard_rows": shard_rows,
            "words": words,
            "texts": {"sha256": f"sha256:{digest}", **facts},
            "model": {key: value for key, value in model.items() if key != "source"},
            "provenance": {"precision": provenance.get("precision")},
        }
        _claim.check_usable(folder, self._shared, resume=resume, overwrite=overwrite)
        self._shards = Shards(folder, TEXT_ARRAYS, shard_rows=shard_rows)
        self._lock = _claim.Lock(folder)
        try:
            _claim.recover(folder)
            if overwrite:
                _claim.discard(folder)
            _claim.refuse_mixture(folder, self._shared)
            is_complete = (folder / META).exists() and read_meta(folder)["state"] == COMPLETE
            self._write_meta(INCOMPLETE)
            write_whole(folder / TEXTS, content.encode())
            whole = self._whole_shards() * shard_rows
            self._shards.resume(len(texts) if is_complete else whole)
        except BaseException:
            self.close()
            raise

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
        if self.done != len(self._texts):
            raise ValueError(f"{self.done} of {len(self._texts)} texts done")
        self._shards.close_shard()
        if self._pairs is None:
            (self._folder / PAIRS).unlink(missing_ok=True)
        else:
            pairs = "".join(f"{row}\t{video}\n" for row, video in self._pairs)
            write_whole(self._folder / PAIRS, pairs.encode())
        meta = self._write_meta(COMPLETE)
        _claim.clear_partial(self._folder)
        return meta

    def close(self) -> None:
        """Let go of the folder; what is not finished can be resumed."""
        self._shards.close()
        self._lock.release()

    def __enter__(self) -> TextWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _whole_shards(self) -> int:
        """Full shards that every array has; a short last one is written again."""
        count = 0
        while (count + 1) * self._shard_rows <= len(self._texts) and all(
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
            "count": len(self._texts),
            "dim": text[0] if text else None,
            **self._shared,
            "model": dict(self._model),
            "provenance": dict(self._provenance),
        }
        write_whole(self._folder / META, json_bytes(meta))
        return meta
