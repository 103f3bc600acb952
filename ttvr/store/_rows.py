"""Shards of rows seen as one array."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Rows:
    """Rows of several memory-mapped shards, concatenated when they are read and not before.

    Args:
        shards: arrays [n, ...] of equal dtype and row shape.
        row_shape: shape of one row; needed where there is no shard.
        dtype: likewise.
    """

    def __init__(
        self,
        shards: Sequence[np.ndarray],
        *,
        row_shape: tuple[int, ...] | None = None,
        dtype: np.dtype | str | None = None,
    ) -> None:
        self.shards = tuple(shards)
        row_shape = self.shards[0].shape[1:] if self.shards else tuple(row_shape or ())
        self.dtype = self.shards[0].dtype if self.shards else np.dtype(dtype)
        self._starts = np.cumsum([0, *(len(shard) for shard in self.shards)])
        self.shape = (int(self._starts[-1]), *row_shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"Rows(shape={self.shape}, dtype={self.dtype.str!r}, shards={len(self.shards)})"

    def __getitem__(self, key: int | slice | Sequence[int] | np.ndarray) -> np.ndarray:
        """One row, a range of rows (a view where it lies in one shard), or chosen rows [k, ...].

        Raises:
            IndexError: a row that is not there.
        """
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            return (
                self._range(start, stop) if step == 1 else self._gather(np.arange(len(self))[key])
            )
        if isinstance(key, (int, np.integer)):
            return self._gather(np.array([key]))[0]
        index = np.asarray(key)
        if index.dtype == bool:
            if index.shape != (len(self),):
                raise IndexError(f"a mask of shape {index.shape} for {len(self)} rows")
            index = np.flatnonzero(index)
        return self._gather(index.astype(np.int64))

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        """All rows in memory; what `np.asarray` calls."""
        rows = self[:]
        return rows.astype(rows.dtype if dtype is None else dtype, copy=bool(copy))

    def _range(self, start: int, stop: int) -> np.ndarray:
        parts = []
        for shard, first in zip(self.shards, self._starts, strict=False):
            low, high = max(start - first, 0), min(stop - first, len(shard))
            if low < high:
                parts.append(np.asarray(shard[low:high]))
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty((0, *self.shape[1:]), self.dtype)

    def _gather(self, index: np.ndarray) -> np.ndarray:
        if index.ndim != 1:
            raise IndexError(f"rows are chosen by a one-dimensional index, got {index.shape}")
        if len(index) and not (-len(self) <= index.min() and index.max() < len(self)):
            raise IndexError(f"row out of range: there are {len(self)}")
        index = np.where(index < 0, index + len(self), index)
        chosen = np.empty((len(index), *self.shape[1:]), self.dtype)
        which = np.searchsorted(self._starts, index, side="right") - 1
        for shard in np.unique(which):
            here = which == shard
            chosen[here] = self.shards[shard][index[here] - self._starts[shard]]
        return chosen
