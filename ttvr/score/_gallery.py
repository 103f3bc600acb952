"""A gallery of vectors in shards: read in blocks, bounded, checked, and gathered by row."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ttvr.errors import TtvrError

_BITS = {torch.float16: (np.uint16, 10, 5), torch.float32: (np.uint32, 23, 8)}
"""Unsigned view, mantissa bits and exponent bits of the dtypes a gallery may have."""


class Part(NamedTuple):
    """One shard: its values [n, D], the row it starts at, and its name for error messages."""

    values: Tensor
    first: int
    name: str


class Block(NamedTuple):
    """Consecutive rows.

    Attributes:
        values: [R, D] float32; overwritten when the next block is read.
        first: the row they start at.
        magnitude: no absolute value is above it.
    """

    values: Tensor
    first: int
    magnitude: float


def open_parts(gallery: Any) -> list[Part]:
    """The shards of a gallery: of anything with `shards`, or one array or tensor [N, D]."""
    shards: Sequence[Any] = gallery.shards if hasattr(gallery, "shards") else (gallery,)
    parts, first = [], 0
    for index, shard in enumerate(shards):
        values = _shared(shard)
        if values.ndim != 2 or values.dtype not in _BITS:
            found = f"{values.dtype} {list(values.shape)}"
            raise ValueError(f"expected float16 or float32 [N, D], shard {index} is {found}")
        parts.append(Part(values, first, str(getattr(shard, "filename", f"shard {index}"))))
        first += len(values)
    return parts


def stream(parts: list[Part], rows: int, device: torch.device) -> Iterator[Block]:
    """All rows in order, at most `rows` at a time.

    Raises:
        TtvrError: a value is not finite; names the row and its shard.
    """
    space = torch.empty(rows, parts[0].values.shape[1], device=device)
    for part in parts:
        for start in range(0, len(part.values), rows):
            raw = part.values[start : start + rows]
            if raw.dtype == torch.float32 and raw.device == device:
                values = raw
            else:
                values = space[: len(raw)].copy_(raw)
            yield Block(values, part.first + start, _magnitude(raw, part, start))


def gather(parts: list[Part], rows: np.ndarray) -> np.ndarray:
    """Rows of the gallery as float64 [R, D], in the order asked for."""
    firsts = np.array([part.first for part in parts])
    shard = np.searchsorted(firsts, rows, side="right") - 1
    gathered = np.empty((len(rows), parts[0].values.shape[1]))
    for index in np.unique(shard):
        mine = np.flatnonzero(shard == index)
        values, first, _ = parts[index]
        local = torch.from_numpy(rows[mine] - first).to(values.device)
        gathered[mine] = values[local].cpu().numpy()
    return gathered


def _magnitude(raw: Tensor, part: Part, start: int) -> float:
    """A bound on the absolute values of a block [R, D] that starts at a row of a part.

    On a CPU it is the power of two above the bitwise or of all values: one cheap pass. Values of
    2 and more can make that look infinite; only then are they looked at one by one.
    """
    if raw.device.type == "cpu" and raw.is_contiguous():
        unsigned, mantissa, exponent = _BITS[raw.dtype]
        infinite = (1 << exponent) - 1
        bits = int(np.bitwise_or.reduce(raw.numpy().reshape(-1).view(unsigned)))
        power = (bits >> mantissa) & infinite
        if power < infinite:
            return 2.0 ** (power + 1 - infinite // 2)
    bound = float(raw.abs().amax())
    if not np.isfinite(bound):
        row = start + int((~raw.isfinite()).any(dim=1).nonzero()[0])
        raise TtvrError(
            f"row {part.first + row} of the features is not finite (row {row} of {part.name}); "
            "extract it again"
        )
    return bound


def _shared(array: np.ndarray | Tensor) -> Tensor:
    """A tensor that shares the memory of an array, read-only ones included: never write to it."""
    if isinstance(array, Tensor):
        return array
    with warnings.catch_warnings():
        # torch warns that a memory-mapped file must not be written to; nothing here does.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(array))
