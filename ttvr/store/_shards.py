"""The shards of a folder while it is written: whole ones, and one open shard in `.partial/`.

A row goes to its place in a preallocated file by `pwrite`: what a memory map would do, but a full
disk is an error instead of a signal that kills the process.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ttvr.store._files import (
    HEADER_BYTES,
    PARTIAL,
    damaged,
    npy_header,
    read_array,
    shard_name,
    sync_folder,
    unreadable,
    write_all,
)
from ttvr.wording import counted

NORM_TOLERANCE = 1e-3  # half precision rounds each entry by 2^-11 at most: norms are 5e-4 off
_TOKENS = ("frames", "patches", "words")


class Shards:
    """Appends rows to the arrays of a folder.

    Args:
        folder: the feature folder; `.partial/` is there.
        names: the arrays, each a subfolder.
        shard_rows: rows of every shard but the last.
    """

    def __init__(self, folder: Path, names: Sequence[str], *, shard_rows: int) -> None:
        self._folder, self._names, self._shard_rows = folder, tuple(names), shard_rows
        self._open: dict[str, _OpenArray] = {}
        self.rows = 0

    def check(self, rows: int) -> None:
        """Check, changing nothing, that the files of that many rows are there and long enough.

        Raises:
            TtvrError: a file is missing or damaged.
        """
        for start in range(0, rows, self._shard_rows):
            shard, count = start // self._shard_rows, min(self._shard_rows, rows - start)
            for name in self._names:
                final, partial = self._final(name, shard), self._partial(name, shard)
                _read_header(partial if partial.exists() else final, count)

    def resume(self, rows: int) -> int:
        """Go on after that many rows, which earlier runs wrote.

        Returns:
            The rows that are whole: fewer than asked for where a power cut lost some of them.

        Raises:
            TtvrError: a file is missing or damaged.
        """
        full, rest = divmod(rows, self._shard_rows)
        for shard in range(full):
            for name in self._names:
                self._settle(name, shard)
        self.rows = rows
        if rest:
            for name in self._names:
                self._open[name] = self._reopen(name, full, rest)
            self.rows = full * self._shard_rows + self._whole_rows(rest)
        return self.rows

    def append(self, row: Mapping[str, np.ndarray]) -> tuple[int, int]:
        """Write a row of every array.

        Args:
            row: by name; dtypes and shapes are those of the rows before it.

        Returns:
            The shard and the row within it.
        """
        shard, at = divmod(self.rows, self._shard_rows)
        if not self._open:
            for name in self._names:
                path = self._partial(name, shard)
                self._open[name] = _OpenArray.create(path, row[name], self._shard_rows)
        for name in self._names:
            self._open[name].write(at, row[name])
        self.rows += 1
        return shard, at

    @property
    def is_full(self) -> bool:
        """Whether the open shard has all its rows."""
        return bool(self._open) and self.rows % self._shard_rows == 0

    def close_shard(self) -> None:
        """Cut the open shard to its rows and move its files to their places."""
        if not self._open:
            return
        shard, last = divmod(self.rows - 1, self._shard_rows)
        for name in self._names:
            self._open.pop(name).finish(last + 1)
            self._place(self._partial(name, shard), self._final(name, shard))

    def close(self) -> None:
        """Close the files; changes none."""
        for array in self._open.values():
            array.close()
        self._open = {}

    def row_shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of one row of an array; None where no row was ever written."""
        if name in self._open:
            return self._open[name].row_shape
        first = self._final(name, 0)
        return read_array(first).shape[1:] if first.exists() else None

    def _final(self, name: str, shard: int) -> Path:
        return self._folder / name / shard_name(shard)

    def _partial(self, name: str, shard: int) -> Path:
        return self._folder / PARTIAL / f"{name}-{shard_name(shard)}"

    def _settle(self, name: str, shard: int) -> None:
        """A full shard is in its place, or is moved there: the last run died closing it."""
        final, partial = self._final(name, shard), self._partial(name, shard)
        if not final.exists() and partial.exists():
            array = _OpenArray.reopen(partial, self._shard_rows, self._shard_rows)
            array.finish(self._shard_rows)
            self._place(partial, final)
        found = len(read_array(final))
        if found != self._shard_rows:
            raise damaged(final, f"{counted(found, 'row')}, expected {self._shard_rows}")

    def _reopen(self, name: str, shard: int, rows: int) -> _OpenArray:
        final, partial = self._final(name, shard), self._partial(name, shard)
        if not partial.exists():
            final.replace(partial)
        return _OpenArray.reopen(partial, rows, self._shard_rows)

    def _place(self, partial: Path, final: Path) -> None:
        final.parent.mkdir(exist_ok=True)
        partial.replace(final)
        sync_folder(final.parent)

    def _whole_rows(self, rows: int) -> int:
        """How many of the open shard's rows are whole, counted from the first."""
        for at in range(rows):
            if not is_whole({name: array.read(at) for name, array in self._open.items()}):
                return at
        return rows


def is_whole(row: Mapping[str, np.ndarray]) -> bool:
    """Whether a stored row is what was written, not the zeros of a block that the disk lost."""
    vector = row["video" if "video" in row else "text"].astype(np.float32)
    real = row["mask"]
    if abs(float(np.linalg.norm(vector)) - 1) > NORM_TOLERANCE or not real.any():
        return False
    return all(row[name][real].any() for name in _TOKENS if name in row)


def stored_array(folder: Path, name: str, shard: int) -> np.ndarray:
    """A shard of a folder that may be unfinished: from its place, or still open."""
    final = folder / name / shard_name(shard)
    path = final if final.exists() else folder / PARTIAL / f"{name}-{shard_name(shard)}"
    return read_array(path)


def _read_header(path: Path, rows: int) -> tuple[np.dtype, tuple[int, ...]]:
    """Dtype and row shape of a file that holds at least `rows` rows, whatever its header says.

    Raises:
        TtvrError: missing, no `.npy` v1.0 file, or shorter.
    """
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    except FileNotFoundError as error:
        raise damaged(path, "missing") from error
    except ValueError as error:
        raise damaged(path, unreadable(error)) from error
    needed = HEADER_BYTES + rows * dtype.itemsize * math.prod(shape[1:])
    if version != (1, 0) or path.stat().st_size < needed:
        raise damaged(path, f"has not the {rows} rows that the journal counts")
    return dtype, shape[1:]


class _OpenArray:
    """One array of the open shard: a `.npy` file with room for all rows of the shard."""

    def __init__(self, descriptor: int, dtype: np.dtype, row_shape: tuple[int, ...]) -> None:
        self._descriptor = descriptor
        self.dtype, self.row_shape = dtype, row_shape
        self._row_bytes = dtype.itemsize * int(np.prod(row_shape, dtype=np.int64))

    @classmethod
    def create(cls, path: Path, row: np.ndarray, capacity: int) -> _OpenArray:
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        made = cls(descriptor, row.dtype.newbyteorder("<"), row.shape)
        made._resize(capacity)
        return made

    @classmethod
    def reopen(cls, path: Path, rows: int, capacity: int) -> _OpenArray:
        """Open a file of at least `rows` rows, whatever its header says, and make room."""
        dtype, row_shape = _read_header(path, rows)
        made = cls(os.open(path, os.O_RDWR), dtype, row_shape)
        made._resize(capacity)
        return made

    def write(self, at: int, row: np.ndarray) -> None:
        if row.shape != self.row_shape or row.dtype != self.dtype:
            raise ValueError(
                f"a row {row.dtype}{list(row.shape)} among {self.dtype}{list(self.row_shape)}"
            )
        content = np.ascontiguousarray(row, dtype=self.dtype).tobytes()
        write_all(self._descriptor, content, offset=self._end(at))

    def read(self, at: int) -> np.ndarray:
        content = os.pread(self._descriptor, self._row_bytes, self._end(at))
        return np.frombuffer(content, self.dtype).reshape(self.row_shape)

    def finish(self, rows: int) -> None:
        try:
            self._resize(rows)
            os.fsync(self._descriptor)
        finally:
            self.close()

    def close(self) -> None:
        os.close(self._descriptor)

    def _end(self, rows: int) -> int:
        return HEADER_BYTES + rows * self._row_bytes

    def _resize(self, rows: int) -> None:
        """Give the file that many rows, new ones zero; the data of those it keeps stays put."""
        header = npy_header(self.dtype, (rows, *self.row_shape))
        write_all(self._descriptor, header, offset=0)
        os.ftruncate(self._descriptor, self._end(rows))
