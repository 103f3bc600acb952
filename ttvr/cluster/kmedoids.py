"""k-medoids++: farthest-first seeds, then the published medoid iterations.

Zhao et al., "CenterCLIP" (SIGIR 2022), Algorithm 1, as its code has it: the new center of a cluster
is the member with the least sum of distances, where the paper says the member nearest to the mean
(`rule` has both). We depart in three points, none of which changes a result that rounding did not
already decide: distances are exact (see `_distance`), every tie goes to the lowest index, and each
sample stops by itself, so that nothing depends on what else is in the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ttvr.cluster import Clusters
from ttvr.cluster._distance import distances

RULES = ("medoid", "nearest_mean")


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
        points: [B, N, D] of any floating dtype; distances are exact, sums float32 or better, also
            under autocast. No gradient flows.
        k: clusters, 1 <= k <= N.
        iterations: at most so many rounds of assigning and moving the centers.
        tolerance: a sample stops once its centers moved less than this, summed over K.
        metric: "euclidean" (Minkowski of order `p`) or "cosine" (1 - cosine).
        p: order of the Minkowski distance.
        pre_norm: divide each point by its norm first; the first seed goes by the norm before that
            (after it, as published, rounding noise would choose).
        rule: "medoid", least sum of distances to the cluster; or "nearest_mean", the point nearest
            to its mean.
        first: [B] int64 first seed of each sample; default the point of the largest norm.
        mask: [B, N] bool, True for the points that count. The others are never a center, have no
            vote and no cluster, whatever they hold; see `Clusters` for what comes back.

    Returns:
        Centers and assignment: each point belongs to the nearest center, a tie to the lowest.

    Raises:
        TtvrError: a point is NaN or infinite; names the sample.
        ValueError: an argument that cannot work; the message has its shape or value.
    """
    matrix, seeds, valid = _start(points, k, metric, p, pre_norm, first, mask)
    medoids = seeds
    if rule not in RULES:
        raise ValueError(f"rule is one of {', '.join(RULES)}, got {rule!r}")
    B, N = points.shape[:2]
    active = torch.arange(B, device=points.device)
    medoids = medoids.clone()
    for _ in range(iterations):
        assignment = _assign(matrix[active], medoids[active])
        if rule == "medoid":
            members = torch.nn.functional.one_hot(assignment, k).double() * valid[active, :, None]
            sums = matrix[active].double() @ members
        else:
            raise NotImplementedError
        sums = sums.masked_fill(members == 0, torch.inf)
        moved = sums.argmin(1)
        shift = matrix[active[:, None], medoids[active], moved].clamp(min=0).sum(1)
        medoids[active] = moved
        active = active[shift >= tolerance]
        if not len(active):
            break
    centers = medoids.sort(1).values
    assignment = _assign(matrix, centers)
    return Clusters(centers, assignment.masked_fill(~valid, -1))


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
    """Seeds, each the farthest point from those before it (Katsavounidis, Kuo and Zhang, 1994).

    Args:
        points: and all others as in `kmedoids`.

    Returns:
        [B, K] int64 indices in the order of picking; where a mask leaves V < K points, the last
        pick is repeated.

    Raises:
        TtvrError: a point is NaN or infinite; names the sample.
        ValueError: an argument that cannot work.
    """
    return _start(points, k, metric, p, pre_norm, first, mask)[1]


def _start(points, k, metric, p, pre_norm, first, mask):
    B, N, _ = points.shape
    if not 1 <= k <= N:
        raise ValueError(f"k is in 1..{N}, the number of points, got {k}")
    valid = torch.ones(B, N, dtype=torch.bool, device=points.device) if mask is None else mask
    points = points.detach().masked_fill(~valid[..., None], 0)
    matrix, norms = distances(points, metric=metric, p=p, pre_norm=pre_norm)
    matrix.diagonal(dim1=1, dim2=2).fill_(-1)
    rows = torch.arange(B, device=points.device)
    pick = norms.masked_fill(~valid, -2).argmax(1) if first is None else first
    nearest = torch.full((B, N), torch.inf, device=points.device).masked_fill(~valid, -2)
    picks = [pick]
    for _ in range(k - 1):
        nearest = nearest.minimum(matrix[rows, pick])
        farthest, found = nearest.max(1)
        pick = torch.where(farthest >= 0, found, pick)
        picks.append(pick)
    return matrix, torch.stack(picks, 1), valid


def _assign(matrix: Tensor, medoids: Tensor) -> Tensor:
    rows = matrix.gather(1, medoids[..., None].expand(-1, -1, matrix.shape[2]))
    return rows.argmin(1)


PLUGIN = kmedoids
