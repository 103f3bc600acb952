"""Clusterings of token sets: one file each, found by listing this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


METRICS = ("euclidean", "cosine")
"""What a clustering can measure distances by; the first is Minkowski's, of any order p."""


class Clusters(NamedTuple):
    """What a clustering finds, on the device of the points.

    Attributes:
        centers: [B, K] int64 indices into the N points, ascending. Where a mask leaves V < K points
            of a sample, all V are centers and the last one is repeated, so the first min(V, K)
            entries are the real ones (V = 0: all entries are 0 and none is real).
        assignment: [B, N] int64, which entry of `centers` each point belongs to, in 0..K-1;
            -1 for the points that a mask leaves out.
    """

    centers: Tensor
    assignment: Tensor
