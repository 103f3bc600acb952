"""Seeds, assignment and movement of medoids, all from a matrix of distances.

A seed costs one row of the matrix and an iteration K rows and the pairs inside the clusters, where
the published code has tensors [B, K, N, N]. Ties go to the lowest index throughout.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

SELF = -1.0  # a point's distance to itself, on the diagonal: no copy of it is as near
_PAIRS = 1 << 17  # of points of one cluster, at a time


def seeds(matrix: Tensor, k: int, norms: Tensor, first: Tensor | None, mask: Tensor) -> Tensor:
    """Farthest-first picks, by a running minimum of the distances to those before.

    Args:
        matrix: [B, N, N] float32 with `SELF` on the diagonal.
        k: picks.
        norms: [B, N]; the first pick has the largest.
        first: [B] int64 first pick instead.
        mask: [B, N] bool, points that can be picked.

    Returns:
        [B, K] int64; the last pick is repeated where no point is left.
    """
    pick = norms.masked_fill(~mask, -1).argmax(1) if first is None else first
    sample = torch.arange(len(matrix), device=matrix.device)
    nearest = torch.full_like(norms, torch.inf).masked_fill_(~mask, 2 * SELF)
    picks = [pick]
    for _ in range(k - 1):
        nearest = torch.minimum(nearest, matrix[sample, pick])
        farthest, index = nearest.max(1)
        pick = index.where(farthest > SELF, pick)
        picks.append(pick)
    return torch.stack(picks, 1)


def settle(
    matrix: Tensor,
    medoids: Tensor,
    mask: Tensor,
    *,
    cost: Tensor,
    iterations: int,
    tolerance: float,
) -> Tensor:
    """Assign and move until nothing moves; a sample that came to rest leaves the batch.

    Args:
        matrix: [B, N, N] float32 with `SELF` on the diagonal.
        medoids: [B, K] int64, in the order that breaks ties of the assignment.
        mask: [B, N] bool, points that have a vote.
        cost: [B, N, N] with a constant diagonal; a medoid has the least sum of it over its cluster.
        iterations: at most.
        tolerance: of the distance moved, summed over K.

    Returns:
        [B, K] int64, in the same order.
    """
    medoids = medoids.clone()
    active = torch.arange(len(matrix), device=matrix.device)
    for _ in range(iterations):
        if not len(active):
            break
        before = medoids[active]
        assignment = nearest(matrix, before, active)
        after = _move(cost, assignment, before, mask[active], active)
        medoids[active] = after
        shift = matrix[active[:, None], before, after].clamp_(min=0).sum(1)
        active = active[shift >= tolerance]
    return medoids


def nearest(matrix: Tensor, medoids: Tensor, sample: Tensor) -> Tensor:
    """Which medoid each point is nearest to.

    Args:
        matrix: [B, N, N] float32 with `SELF` on the diagonal.
        medoids: [A, K] int64.
        sample: [A] int64, the rows of `matrix` they belong to.

    Returns:
        [A, N] int64 in 0..K-1.
    """
    (A, K), N = medoids.shape, matrix.shape[1]
    rows = (medoids + sample[:, None] * N).flatten()
    found = matrix.view(-1, N).index_select(0, rows).view(A, K, N)
    # The minimum along the last axis of a copy beats that along the middle one.
    return found.mT.contiguous().min(-1).indices


def _move(
    cost: Tensor,
    assignment: Tensor,
    medoids: Tensor,
    mask: Tensor,
    sample: Tensor,
) -> Tensor:
    """The member of each cluster with the least sum of costs to the members.

    Costs are float32, sums float64: exact, so that equal clusters tie whatever their order.

    Args:
        cost: [B, N, N].
        assignment: [A, N] int64 in 0..K-1.
        medoids: [A, K] int64, kept where a cluster is empty.
        mask: [A, N] bool.
        sample: [A] int64, the rows of `cost`.

    Returns:
        [A, K] int64.
    """
    (A, K), N = medoids.shape, cost.shape[1]
    slots = torch.arange(A, device=cost.device)[:, None] * (K + 1)
    own, member = assignment.masked_fill(~mask, K).sort(dim=1, stable=True)
    own = (own + slots).flatten()  # [A*N] cluster of each point, in the order of clusters
    row = (member + sample[:, None] * N).flatten() * N  # where its costs begin
    member = member.flatten()
    sizes = torch.bincount(own, minlength=A * (K + 1))
    begin = sizes.cumsum(0) - sizes
    sizes.view(A, K + 1)[:, K] = 0
    mates = sizes[own]
    until = mates.cumsum(0)
    begin = begin[own] - (until - mates)  # from a pair's number to its second member
    sums = torch.empty(A * N, dtype=torch.float64, device=cost.device)
    for some in _slices(until):
        count = mates[some]
        number = torch.arange(int(count.sum()), device=cost.device)
        number += (until - mates)[some.start]
        second = member[number + begin[some].repeat_interleave(count)]
        pairs = cost.view(-1)[row[some].repeat_interleave(count) + second].double()
        sums[some] = torch.segment_reduce(pairs, "sum", lengths=count)
    least = torch.full((A * (K + 1),), torch.inf, dtype=torch.float64, device=cost.device)
    least.scatter_reduce_(0, own, sums, "amin")
    best = member.where(sums == least[own], N)
    moved = torch.full_like(sizes, N).scatter_reduce_(0, own, best, "amin").view(A, K + 1)[:, :K]
    return moved.where(moved < N, medoids)


def _slices(until: Tensor) -> list[slice]:
    """Runs of points with about `_PAIRS` pairs; `until` [M] counts pairs up to each point."""
    total = int(until[-1])
    cuts = torch.tensor(range(_PAIRS, total, _PAIRS), dtype=torch.int64, device=until.device)
    ends = [0, *torch.searchsorted(until, cuts, right=True).tolist(), len(until)]
    return [slice(a, b) for a, b in pairwise(ends) if a < b]


def ascending(medoids: Tensor, mask: Tensor) -> Tensor:
    """Medoids in ascending order; the last real one fills the places for which none was left.

    Args:
        medoids: [B, K] int64, the min(V, K) real ones first.
        mask: [B, N] bool with V points each.

    Returns:
        [B, K] int64; zeros where no point is left at all.
    """
    K, N = medoids.shape[1], mask.shape[1]
    last = mask.sum(1, keepdim=True).clamp_(max=K) - 1
    place = torch.arange(K, device=medoids.device)
    ordered = medoids.masked_fill(place > last, N).sort(1).values
    ordered = ordered.gather(1, place.minimum(last).clamp_(min=0))
    return ordered.masked_fill_(last < 0, 0)
