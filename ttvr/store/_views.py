"""Rows of an array seen in another way; they are read when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ttvr.store._rows import Rows


class Padded:
    """Rows in whose masked places stands what an encoder makes of padding.

    A folder holds zeros there, while heads without a mask count padding in.

    Args:
        rows: [n, T, ...].
        mask: [n, T] bool, True = real.
        pad: [...], for every place that is not.
    """

    def __init__(self, rows: Rows, mask: Rows, pad: np.ndarray) -> None:
        self._rows, self._mask, self._pad = rows, mask, pad
        self.shape = rows.shape

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: slice | Sequence[int] | np.ndarray) -> np.ndarray:
        """Rows [k, T, ...], as of `Rows`."""
        rows, mask = self._rows[key], self._mask[key]
        if mask.all():
            return rows
        mask = mask.reshape(*mask.shape, *[1] * (rows.ndim - mask.ndim))
        return np.where(mask, rows, self._pad.astype(rows.dtype))


class Chosen:
    """Some rows of an array, in the order given, and of each the first positions.

    Args:
        rows: [n, L, ...].
        index: [k] rows.
        length: positions of each.
    """

    def __init__(self, rows: Any, index: Sequence[int], length: int) -> None:
        self._rows, self._index, self._length = rows, np.asarray(index, dtype=np.int64), length
        self.shape = (len(self._index), length, *rows.shape[2:])

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, key: slice | Sequence[int] | np.ndarray) -> np.ndarray:
        """Rows [k, length, ...]."""
        return self._rows[self._index[key]][:, : self._length]
