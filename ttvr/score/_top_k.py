"""Exact top-k over a gallery of any size: a fast bounded pass, then one exact score per survivor.

The fast pass multiplies in float32, in blocks that stay in the processor's cache, and finds every
row that could be among the k best, given a bound on its rounding. The score of those is taken anew
as a float64 sum in one fixed order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ttvr.errors import TtvrError
from ttvr.score._gallery import Part, gather, open_parts, stream
from ttvr.score._precision import full_precision

BLOCK_ROWS = 1024
"""Rows per product on a CPU: converted to float32 they stay in its cache."""
DEVICE_BLOCK_ROWS = 32768
LOOK_SCORES = 1 << 18
"""Scores per look for winners: few large looks cost less Python than many small ones."""
QUERIES_AT_ONCE = 256
EXACT_ROWS = 1024
PENDING_LIMIT = 1 << 18
"""Candidates held before they are settled, so that memory does not grow with the gallery."""

_UNIT_ROUNDOFF = 2.0**-24
_TINY = 2.0**-100
"""Above all that flushed denormals can lose in a sum of products."""
_MAY_OVERFLOW = 1e30


def top_k(
    queries: Tensor, gallery: Any, k: int, *, block: int | None = None
) -> tuple[Tensor, Tensor]:
    """The k rows of the gallery with the greatest inner products.

    Scores and order depend on the query and the row alone: not on the block, the other queries,
    the threads or the device. Equal scores go by the lower row. Memory does not grow with the
    gallery.

    Args:
        queries: [Nq, D] tensor or array; the fast pass runs on its device.
        gallery: [N, D] float16 or float32, unit rows or not: a `store.Rows` (anything with
            `shards`), an array, or a tensor.
        k: how many; min(k, N) are returned.
        block: rows per product; None chooses by device.

    Returns:
        scores [Nq, k] float32, each the exact inner product rounded, and rows [Nq, k] int64; best
        first, on the device of the queries.

    Raises:
        TtvrError: a value or a score is not finite; names the query, or the row and its shard.
    """
    queries = torch.as_tensor(queries)
    parts = open_parts(gallery)
    if any(part.values.shape[1:] != queries.shape[1:] for part in parts):
        raise ValueError(
            f"queries {list(queries.shape)} do not fit rows of {list(parts[0].values.shape[1:])}"
        )
    if k < 1 or (block is not None and block < 1):
        raise ValueError(f"k {k} and block {block} must be at least 1")
    bad = (~queries.isfinite()).any(dim=1).nonzero()
    if len(bad):
        raise TtvrError(f"the vector of query {int(bad[0])} is not finite")
    k = min(k, sum(len(part.values) for part in parts))
    block = block or (BLOCK_ROWS if queries.device.type == "cpu" else DEVICE_BLOCK_ROWS)
    scores = torch.empty(len(queries), k)
    rows = torch.empty(len(queries), k, dtype=torch.int64)
    for start in range(0, len(queries) if k else 0, QUERIES_AT_ONCE):
        some = slice(start, start + QUERIES_AT_ONCE)
        with torch.inference_mode(), full_precision():
            scores[some], rows[some] = _search(queries[some].float().contiguous(), parts, k, block)
    return scores.to(queries.device), rows.to(queries.device)


def _search(queries: Tensor, parts: list[Part], k: int, rows: int) -> tuple[Tensor, Tensor]:
    """`top_k` of one batch of queries [Q, D], on the CPU."""
    Q, D = queries.shape
    # In any order, a float32 sum of D products is off by at most D u sum|q g| / (1 - D u), and the
    # exact score by u more when it is rounded. Twice that covers the denominator and this sum.
    slack = queries.abs().sum(dim=1) * (2 * (D + 2) * _UNIT_ROUNDOFF)  # [Q]
    candidates = _Candidates(queries, parts, k)
    fast = queries.new_empty(Q, max(rows, LOOK_SCORES // Q))
    filled, first, largest = 0, 0, 0.0
    for block in stream(parts, rows, queries.device):
        count = len(block.values)
        if filled + count > fast.shape[1]:
            candidates.offer(fast[:, :filled], first, slack * largest + _TINY)
            filled, first, largest = 0, block.first, 0.0
        out = fast[:, filled : filled + count]
        if Q == 1:
            torch.mv(block.values, queries[0], out=out[0])
        else:
            torch.mm(queries, block.values.T, out=out)
        filled += count
        largest = max(largest, block.magnitude)
    candidates.offer(fast[:, :filled], first, slack * largest + _TINY)
    return candidates.result()


class _Candidates:
    """The rows that may be among the k best of each query, as fast scores come by.

    Args:
        queries: [Q, D] float32.
        parts: the gallery.
        k: at most the rows of the gallery.
    """

    def __init__(self, queries: Tensor, parts: list[Part], k: int) -> None:
        self._queries = queries.cpu().numpy().astype(np.float64)
        self._parts, self._k = parts, k
        # The k greatest lower bounds seen of each query; its bar is the least of them.
        self._best = queries.new_full((len(queries), k), -torch.inf)
        self._bar = queries.new_full((len(queries),), -torch.inf)
        self._pending: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._count, self._limit = 0, max(PENDING_LIMIT, 4 * k * len(queries))

    def offer(self, scores: Tensor, first: int, error: Tensor) -> None:
        """Take the fast scores [Q, R] of the rows from `first` on, each right to `error` [Q]."""
        if float(error.max()) > _MAY_OVERFLOW and not bool(scores.isfinite().all()):
            query, column = (~scores.isfinite()).nonzero()[0].tolist()
            raise TtvrError(f"the score of query {query} and row {first + column} is not finite")
        # Most looks end here: no row of theirs can win.
        live = (scores.amax(dim=1) + error >= self._bar).nonzero().squeeze(1)  # [h]
        if not len(live):
            return
        near, margin = scores[live], error[live].unsqueeze(1)
        top = near.topk(min(self._k, near.shape[1]), sorted=False).values - margin
        best = torch.cat([self._best[live], top], dim=1).topk(self._k, sorted=False).values
        bar = best.amin(dim=1)
        self._best[live], self._bar[live] = best, bar
        upper = near + margin
        query, column = (upper >= bar.unsqueeze(1)).nonzero(as_tuple=True)
        found = (live[query], column + first, upper[query, column])
        self._pending.append(tuple(values.cpu().numpy() for values in found))
        self._count += len(query)
        if self._count > self._limit:
            self._settle()

    def result(self) -> tuple[Tensor, Tensor]:
        """Scores and rows [Q, k], exact and in order."""
        exact = [self._exact(query, rows) for query, rows in self._survivors()]
        scores, rows = (np.stack(some) for some in zip(*exact, strict=True))
        return torch.from_numpy(scores), torch.from_numpy(rows)

    def _survivors(self) -> list[tuple[int, np.ndarray]]:
        """Each query with the rows whose upper bound still reaches its bar."""
        query, row, upper = (np.concatenate(some) for some in zip(*self._pending, strict=True))
        alive = upper >= self._bar.cpu().numpy()[query]
        query, row = query[alive], row[alive]
        row = row[np.argsort(query, kind="stable")]
        ends = np.cumsum(np.bincount(query, minlength=len(self._queries)))
        return list(enumerate(np.split(row, ends[:-1])))

    def _settle(self) -> None:
        """Cut the candidates down to the exact k best of each query so far."""
        pending = []
        for query, rows in self._survivors():
            scores, rows = self._exact(query, rows)
            best = torch.full((self._k,), -torch.inf)
            best[: len(scores)] = torch.from_numpy(scores)
            self._best[query], self._bar[query] = best, best.amin()
            pending.append((np.full(len(rows), query), rows, scores))
        self._pending = pending
        self._count = sum(len(rows) for _, rows, _ in pending)

    def _exact(self, query: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The k best of these rows for a query: float32 scores and rows, best first."""
        scores = np.empty(len(rows), np.float32)
        for start in range(0, len(rows), EXACT_ROWS):
            some = slice(start, start + EXACT_ROWS)
            # Products of float32 are exact in float64, and numpy sums every row in one order.
            products = gather(self._parts, rows[some]) * self._queries[query]
            scores[some] = products.sum(axis=1)
        order = np.lexsort((rows, -scores))[: self._k]
        return scores[order], rows[order]
