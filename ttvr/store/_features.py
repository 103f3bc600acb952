"""Reading a feature folder: everything memory-mapped, checked, one array per name."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ttvr.errors import TtvrError
from ttvr.store import _journal
from ttvr.store._files import (
    COMPLETE,
    DTYPES,
    IDS,
    ITEMS,
    META,
    PAD,
    PAIRS,
    TEXT_ARRAYS,
    TEXTS,
    VIDEO_ARRAYS,
    damaged,
    read_array,
    read_lines,
    read_meta,
    shard_name,
)
from ttvr.store._items import Items
from ttvr.store._rows import Rows
from ttvr.store._shards import NORM_TOLERANCE
from ttvr.wording import counted

CHECKED_ELEMENTS = (
    1 << 23
)  # per array when opening: all of a small gallery, a sample of a large one
_DTYPES = {"mask": ("|b1",), "times": ("<f4",)}


def attempts(folder: Path) -> Iterator[dict[str, Any]]:
    """All journal lines of a folder, failures too, each with the absolute path as "file".

    Raises:
        TtvrError: no feature folder, or a damaged journal.
    """
    roots = read_meta(folder)["roots"]
    for line in _journal.read(folder / ITEMS):
        yield _journal.located(line.entry, roots)


class Features:
    """A complete feature folder. Made by `Features.open`; rows are read when they are asked for.

    Attributes:
        path: the folder.
        kind: "video" or "text".
        meta: the content of `meta.json`.
        ids: of a video folder, one per row; of a text folder empty.
        video: [n, E] unit vectors, or None in a text folder; likewise the following.
        frames: [n, T, D], zero where masked; None also where left out (`--no-frames`).
        mask: [n, T] bool, True = real; of a text folder [n, L].
        times: [n, T] float32 seconds, NaN where masked.
        patches: [n, T, P, D], or None where not asked for.
        pad: [D], what the encoder makes of an all-zero frame.
        text: [n, E] unit vectors of a text folder.
        words: [n, L, D] at every position, padded ones too.
        texts: the sentences, one per row.
    """

    def __init__(self, path: Path, meta: dict[str, Any]) -> None:
        self.path, self.meta = path, meta
        self.kind: str = meta["kind"]
        if meta["dtype"] not in DTYPES:
            raise damaged(path / META, f"dtype {meta['dtype']!r}, expected one of {DTYPES}")
        is_video = self.kind == "video"
        self.ids = read_lines(path / IDS) if is_video else []
        self.texts = [] if is_video else read_lines(path / TEXTS)
        names = meta["arrays"] if is_video else TEXT_ARRAYS
        arrays = {name: self._rows(name) for name in names}
        for name in {*VIDEO_ARRAYS, *TEXT_ARRAYS}:
            setattr(self, name, arrays.get(name))
        self.pad = read_array(path / PAD) if is_video else None
        self._arrays = arrays
        listed = len(self.ids if is_video else self.texts)
        if listed != len(self):
            raise damaged(
                path / (IDS if is_video else TEXTS),
                f"{counted(listed, 'line')}, {counted(len(self), 'row')}",
            )

    @classmethod
    def open(cls, path: str | Path) -> Features:
        """Open a folder and check it.

        Names, row counts, shapes and dtypes are checked in full, values (finite, unit norm) over
        the first 8M elements of each array and its last row; `verify` reads everything.

        Raises:
            TtvrError: no feature folder, an unfinished one, another format, or a damaged file.
        """
        path = Path(path)
        meta = read_meta(path)
        if meta.get("state") != COMPLETE:
            is_imported = "imported" in (meta.get("provenance") or {})
            maker = "ttvr-data import" if is_imported else "ttvr-extract"
            raise TtvrError(
                f"{path} is unfinished; run the same {maker} command again, "
                "it goes on where it stopped"
            )
        try:
            made = cls(path, meta)
        except KeyError as error:
            raise damaged(path / META, f"has no {error}") from error
        made._check(sample=True)
        return made

    def __len__(self) -> int:
        return self.meta["count"]

    @property
    def rows(self) -> Rows:
        """The unit vectors, whatever the kind of folder: [n, E]."""
        return self._arrays["video" if self.kind == "video" else "text"]

    @cached_property
    def items(self) -> Items:
        """The journal lines of the rows, in row order, each with the absolute path as "file"."""
        return Items(self.path / ITEMS, roots=self.meta["roots"], ids=self.ids)

    @cached_property
    def gt(self) -> list[tuple[int, str]] | None:
        """Matching (text row, video id) of a text folder; None where nobody told."""
        path = self.path / PAIRS
        if self.kind != "text" or not path.exists():
            return None
        pairs = []
        for number, line in enumerate(read_lines(path), start=1):
            row, tab, video = line.partition("\t")
            if not (tab and row.isdecimal() and int(row) < len(self)):
                raise damaged(path, f"line {number} is not `text row<TAB>video id`")
            pairs.append((int(row), video))
        return pairs

    def verify(self) -> None:
        """Check every value of every array.

        Raises:
            TtvrError: a value is not finite, or a vector not of unit norm; names the file.
        """
        self._check(sample=False)

    def _rows(self, name: str) -> Rows:
        folder = self.path / name
        count, per_shard = self.meta["count"], self.meta["shard_rows"]
        expected = [shard_name(shard) for shard in range(-(-count // per_shard))]
        shards = [read_array(folder / file) for file in expected]
        if extra := sorted({path.name for path in folder.glob("*.npy")} - set(expected)):
            raise damaged(folder / extra[0], f"not one of the {len(expected)} shards")
        dtypes = _DTYPES.get(name, (self.meta["dtype"],))
        for number, shard in enumerate(shards):
            rows = min(per_shard, count - number * per_shard)
            shape = (rows, *self._row_shape(name, shard))
            if (
                shard.shape != shape
                or shard.dtype.str not in dtypes
                or not shard.flags.c_contiguous
            ):
                raise damaged(
                    folder / expected[number],
                    f"{shard.dtype.str} {list(shard.shape)}, "
                    f"expected {' or '.join(dtypes)} {list(shape)}",
                )
        return Rows(shards, row_shape=(0,), dtype=dtypes[0])

    def _row_shape(self, name: str, shard: np.ndarray) -> tuple[int, ...]:
        """What `meta.json` says of it; what it does not say is taken from the shard."""
        if name in ("video", "text"):
            return (self.meta["dim"],)
        positions = self.meta["frames" if self.kind == "video" else "words"]
        return (positions, *shard.shape[2:])

    def _check(self, *, sample: bool) -> None:
        for name, rows in self._arrays.items():
            if name in _DTYPES:
                continue
            budget = CHECKED_ELEMENTS
            for number, shard in enumerate(rows.shards):
                row_elements = max(1, shard[0].size)
                count = min(len(shard), budget // row_elements) if sample else len(shard)
                budget -= count * row_elements
                path = self.path / name / shard_name(number)
                _check_values(path, shard, count, is_unit=name in ("video", "text"))
                if count < len(shard):
                    _check_values(path, shard[-1:], 1, is_unit=name in ("video", "text"))


def _check_values(path: Path, shard: np.ndarray, count: int, *, is_unit: bool) -> None:
    step = max(1, (1 << 20) // max(1, shard[0].size))
    for start in range(0, count, step):
        block = shard[start : min(start + step, count)]
        if not np.isfinite(block).all():
            raise damaged(path, "holds NaN or infinity")
        if is_unit:
            norms = np.linalg.norm(block.astype(np.float32), axis=1)
            worst = float(norms[np.abs(norms - 1).argmax()])
            if abs(worst - 1) > NORM_TOLERANCE:
                raise damaged(path, f"holds a vector of norm {worst:.4g}, expected 1")
