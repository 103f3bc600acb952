"""k-medoids++: farthest-first seeds, then medoid iterations.

Zhao et al., "CenterCLIP" (SIGIR 2022), Algorithm 1, as its code has it: the new center of a cluster
is the member with the least sum of distances, where the paper says the member nearest to the mean
(`rule` has both). We depart in three points, none of which changes a result that rounding had not
decided: distances are exact (see `_distance`), every tie goes to the lowest index, and each sample
stops by itself, so that nothing depends on what else is in the batch.

After the distances, which are one Gram product, the points are not touched again.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ttvr.cluster import Clusters
from ttvr.cluster._distance import distances
from ttvr.cluster._medoids import SELF, ascending, nearest, seeds, settle

RULES = ("medoid", "nearest_mean")
_BYTES = 32 << 20  # of distances at a time


@torch.no_grad()
def kmedoids(
    points: Tensor,
    k: int,
    *,
    iterations: int = 100,
    tolerance: float = 1e-6,
    metric: str = "euclidean",
    p: float = 2.0,
    pre_norm: bool = False,
    rule: str = "medoid",
    first: Tensor | None = None,
    mask: Tensor | None = None,
) -> Clusters:
    """K points of each sample that stand for all of them.

    Args:
        points: [B, N, D] of any floating dtype. Distances are computed in float64 and kept in
            float32, also under autocast; no gradient flows.
        k: clusters, 1 <= k <= N.
        iterations: at most so many rounds of assigning and moving the centers.
        tolerance: a sample stops once its centers moved less than this, summed over K and measured
            by `metric`.
        metric: "euclidean" (Minkowski of order `p`) or "cosine" (1 - cosine).
        p: order of the Minkowski distance.
        pre_norm: divide each point by its norm first; the first seed goes by the norm before that
            (after it, as published, rounding noise would choose).
        rule: "medoid", least sum of distances to the cluster; or "nearest_mean", the point with the
            least Euclidean distance to its mean (with "cosine", of the unit vectors).
        first: [B] int64 first seed of each sample; default the point of the largest norm.
        mask: [B, N] bool, True for the points that count. The others are never a center, have no
            vote and no cluster, whatever they hold; see `Clusters` for what comes back.

    Returns:
        Centers and assignment: each point belongs to the nearest center, a tie to the lowest.

    Raises:
        TtvrError: a point is NaN or infinite; names the sample.
        ValueError: an argument that cannot work; the message has its shape or value.
    """
    if rule not in RULES:
        raise ValueError(f"rule is one of {', '.join(RULES)}, got {rule!r}")
    found = []
    for start in _starts(points, k, first, mask):
        some = _Some.of(points, start, metric, p, pre_norm, first, mask)
        cost = some.matrix
        if rule == "nearest_mean" and metric == "euclidean":
            # The sum of squares is the square of that to the mean, but for a constant. Squares of
            # rounded distances would break ties.
            given = some.points
            cost = distances(given, pre_norm=pre_norm, is_squared=True, offset=start).matrix
        medoids = settle(
            some.matrix,
            seeds(some.matrix, k, some.norms, some.first, some.mask),
            some.mask,
            cost=cost,
            iterations=iterations,
            tolerance=tolerance,
        )
        centers = ascending(medoids, some.mask)
        sample = torch.arange(len(centers), device=centers.device)
        assignment = nearest(some.matrix, centers, sample).masked_fill_(~some.mask, -1)
        found.append(Clusters(centers, assignment))
    return Clusters(*map(torch.cat, zip(*found, strict=True)))


@torch.no_grad()
def kkz(
    points: Tensor,
    k: int,
    *,
    metric: str = "euclidean",
    p: float = 2.0,
    pre_norm: bool = False,
    first: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Seeds: the point of the largest norm, then always the one farthest from those picked.

    Katsavounidis, Kuo and Zhang (1994); what `kmedoids` starts from.

    Args:
        points: [B, N, D].
        k: seeds, 1 <= k <= N.
        metric: as in `kmedoids`.
        p: as in `kmedoids`.
        pre_norm: as in `kmedoids`.
        first: as in `kmedoids`.
        mask: as in `kmedoids`.

    Returns:
        [B, K] int64 indices in the order of picking, distinct; where a mask leaves V < K points,
        the last pick is repeated.

    Raises:
        TtvrError: a point is NaN or infinite; names the sample.
        ValueError: an argument that cannot work.
    """
    found = []
    for start in _starts(points, k, first, mask):
        some = _Some.of(points, start, metric, p, pre_norm, first, mask)
        found.append(seeds(some.matrix, k, some.norms, some.first, some.mask))
    return torch.cat(found)


class _Some(NamedTuple):
    """Samples whose distances fit into `_BYTES`, c of them; `SELF` is on the diagonals."""

    points: Tensor  # [c, N, D]
    matrix: Tensor  # [c, N, N]
    norms: Tensor  # [c, N]
    first: Tensor | None  # [c]
    mask: Tensor  # [c, N]

    @classmethod
    def of(
        cls,
        points: Tensor,
        start: int,
        metric: str,
        p: float,
        pre_norm: bool,
        first: Tensor | None,
        mask: Tensor | None,
    ) -> _Some:
        """Those from `start` on, with their distances; zeros for points that are left out."""
        some = slice(start, start + _step(points.shape[1]))
        kept = points[some].detach()
        if mask is not None:
            kept = kept.masked_fill(~mask[some, :, None], 0)
        matrix, norms = distances(kept, metric=metric, p=p, pre_norm=pre_norm, offset=start)
        matrix.diagonal(dim1=1, dim2=2).fill_(SELF)
        own = torch.ones_like(norms, dtype=torch.bool) if mask is None else mask[some]
        return cls(kept, matrix, norms, None if first is None else first[some], own)


def _step(N: int) -> int:
    return max(1, _BYTES // (4 * N * N))


def _starts(points: Tensor, k: int, first: Tensor | None, mask: Tensor | None) -> range:
    """Where each `_Some` begins; refuses arguments that do not fit the points."""
    if points.ndim != 3 or not 1 <= k <= points.shape[1]:
        raise ValueError(f"k is 1 to N of points [B, N, D], got {k} of {list(points.shape)}")
    B, N = points.shape[:2]
    if mask is not None and (mask.shape != (B, N) or mask.dtype != torch.bool):
        raise ValueError(f"mask is bool [{B}, {N}], got {mask.dtype} {list(mask.shape)}")
    if first is not None:
        if first.shape != (B,) or not ((first >= 0) & (first < N)).all():
            raise ValueError(f"first is [{B}] indices below {N}, got {first}")
        if mask is not None and (mask.any(1) & ~mask.gather(1, first[:, None])[:, 0]).any():
            raise ValueError("first is a point that the mask leaves out")
    # An empty batch is one empty part, so that its result has a shape.
    return range(0, max(B, 1), _step(N))


PLUGIN = kmedoids
