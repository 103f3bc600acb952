"""Spectral clustering: k-medoids++ on the rows of the graph's lowest eigenvectors.

Zhao et al., "CenterCLIP" (SIGIR 2022), section 3.3, as its code has it: Gaussian graph with self
loops, nearest neighbors joined by "or", normalized Laplacian. We depart in that the eigenvectors
come from a symmetric solver in place of a singular value decomposition, no sign is corrected (the
rows' distances do not depend on signs), and the first seed is the row of the largest norm before
the rows are normalized (after it, rounding noise would choose).
"""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor

from ttvr.cluster import Clusters
from ttvr.cluster._distance import EPS, distances
from ttvr.cluster.kmedoids import kmedoids

GRAPHS = ("knn", "dense")
_BYTES = 16 << 20  # of weights at a time
_ALONE = 1e-2  # weight of all edges of a point, below which it is as good as without
_LEFT_OUT = 3.0  # eigenvalue of a point that is masked; those of the others are at most 2

_log = logging.getLogger(__name__)


@torch.no_grad()
def spectral(
    points: Tensor,
    k: int,
    *,
    neighbours: int | None = None,
    sigma: float = 2.0,
    graph: str = "knn",
    graph_mask: Tensor | None = None,
    iterations: int = 100,
    tolerance: float = 1e-6,
    metric: str = "euclidean",
    p: float = 2.0,
    rule: str = "medoid",
    first: Tensor | None = None,
    mask: Tensor | None = None,
) -> Clusters:
    """K points of each sample, one per group that the graph of near points falls into.

    Args:
        points: [B, N, D] of any floating dtype; no gradient flows. Used as they are, without
            normalization, as published.
        k: clusters, 1 <= k <= N.
        neighbours: with graph="knn", which needs it: edges of each point, itself included.
            Published: 5 per frame of the segment, and 5 more where a frame has 100 tokens or more.
        sigma: width of the Gaussian, in the points' own unit.
        graph: "knn", or "dense" (every pair).
        graph_mask: [N, N] bool, symmetric: pairs that may be joined; see `neighborhood`.
        iterations: these and `tolerance`, `metric`, `p`, `rule` go to `kmedoids` on the rows of
            the embedding; the graph is Euclidean whatever they are.
        tolerance: as in `kmedoids`.
        metric: as in `kmedoids`.
        p: as in `kmedoids`.
        rule: as in `kmedoids`.
        first: [B] int64 first seed; default the row of the largest norm before normalization.
        mask: [B, N] bool, as in `kmedoids`: points left out have no edge either.

    Returns:
        Centers (points, as indices) and assignment, as `kmedoids`.

    Raises:
        TtvrError: a point is NaN or infinite; names the sample.
        ValueError: an argument that cannot work.
    """
    B, N, _ = points.shape
    _check(k, N)
    rows = torch.empty(B, N, k, device=points.device)
    norms = torch.empty(B, N, device=points.device)
    step = max(1, _BYTES // (4 * N * N))
    for start in range(0, B, step):
        some = slice(start, start + step)
        weights = affinity(
            points[some],
            neighbours=neighbours,
            sigma=sigma,
            graph=graph,
            graph_mask=graph_mask,
            mask=None if mask is None else mask[some],
            offset=start,
        )
        rows[some], norms[some] = _rows(weights, k)
    if first is None:
        first = (norms if mask is None else norms.masked_fill(~mask, -1)).argmax(1)
    return kmedoids(
        rows,
        k,
        iterations=iterations,
        tolerance=tolerance,
        metric=metric,
        p=p,
        rule=rule,
        first=first,
        mask=mask,
    )


@torch.no_grad()
def affinity(
    points: Tensor,
    *,
    neighbours: int | None = None,
    sigma: float = 2.0,
    graph: str = "knn",
    graph_mask: Tensor | None = None,
    mask: Tensor | None = None,
    offset: int = 0,
) -> Tensor:
    """Weights of the graph: exp(-d^2 / 2 sigma^2) where it has an edge, else 0.

    An edge joins i and j if j is among the nearest of i, or i among those of j; all at the distance
    of the last of them are. A warning is logged if the graph is all but the identity.

    Args:
        points: [B, N, D].
        neighbours: as in `spectral`.
        sigma: as in `spectral`.
        graph: as in `spectral`.
        graph_mask: as in `spectral`; it takes edges from the finished graph.
        mask: as in `spectral`.
        offset: index of the first sample, for the message of an error.

    Returns:
        [B, N, N] float32, symmetric, 1 on the diagonal (0 for points that the mask leaves out).

    Raises:
        TtvrError: a point is NaN or infinite; names the sample.
        ValueError: an argument that cannot work.
    """
    _check_graph(points, neighbours, sigma, graph, graph_mask)
    points = points.detach()
    if mask is not None:
        points = points.masked_fill(~mask[..., None], 0)
    weights = distances(points, offset=offset).matrix.square_().div_(-2 * sigma**2).exp_()
    if mask is not None:
        weights *= mask[:, :, None] & mask[:, None]
    if graph == "knn" and neighbours < points.shape[1]:
        least = weights.topk(neighbours, dim=-1).values[..., -1:]
        # At least that of either row: at least the smaller.
        weights.masked_fill_(weights < torch.minimum(least, least.mT), 0)
    if graph_mask is not None:
        weights *= graph_mask.to(weights.device)
    _warn(weights, sigma, mask)
    return weights


@torch.no_grad()
def embedding(weights: Tensor, k: int) -> Tensor:
    """Rows of the normalized Laplacian's K lowest eigenvectors, each divided by (its norm + 1e-6).

    Args:
        weights: [B, N, N] of a graph, symmetric, as `affinity` makes them.
        k: eigenvectors, 1 <= k <= N.

    Returns:
        [B, N, K] float32, fixed up to a rotation of the K columns.

    Raises:
        ValueError: k is out of range.
    """
    _check(k, weights.shape[1])
    return _rows(weights, k)[0]


def neighborhood(frames: int, patches: int, *, window: int | None = None, span: int = 7) -> Tensor:
    """Which tokens of a segment are near in space and time, for `graph_mask`.

    Args:
        frames: of the segment.
        patches: per frame, a square grid in raster order.
        window: side of the square around a patch; default 9, or 19 from 100 patches on.
        span: frames around a frame, itself included.

    Returns:
        [N, N] bool with N = frames * patches, frame-major: offsets of at most window // 2 in x and
        in y and span // 2 in time.

    Raises:
        ValueError: the patches are no square grid.
    """
    side = math.isqrt(patches)
    if side * side != patches:
        raise ValueError(f"patches are a square grid, got {patches}")
    if window is None:
        window = 9 if patches < 100 else 19
    token = torch.arange(frames * patches)
    places = (token // patches, token % patches // side, token % side)
    reaches = (span // 2, window // 2, window // 2)
    near = [
        (place[:, None] - place).abs() <= reach
        for place, reach in zip(places, reaches, strict=True)
    ]
    return near[0] & near[1] & near[2]


def _rows(weights: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Rows of the embedding [B, N, K], and their norms [B, N] before they were normalized."""
    degrees = weights.sum(-1)
    scale = torch.where(degrees > 0, degrees.rsqrt(), 0)
    laplacian = (weights * scale[:, :, None]).mul_(scale[:, None]).neg_()
    laplacian.diagonal(dim1=1, dim2=2).add_(torch.where(degrees > 0, 1, _LEFT_OUT))
    vectors = _lowest(laplacian, k)
    norms = vectors.norm(dim=-1)
    return vectors / (norms + EPS)[..., None], norms


def _lowest(laplacian: Tensor, k: int) -> Tensor:
    """Eigenvectors [B, N, K] of the K lowest eigenvalues."""
    try:
        return torch.linalg.eigh(laplacian).eigenvectors[..., :k].contiguous()
    except torch.linalg.LinAlgError:  # in float32, on some graphs that fall apart
        if len(laplacian) > 1:  # the others are to be what they are without it
            return torch.cat([_lowest(one, k) for one in laplacian.split(1)])
        return torch.linalg.eigh(laplacian.double()).eigenvectors[..., :k].float()


def _warn(weights: Tensor, sigma: float, mask: Tensor | None) -> None:
    """Tell of samples in which most points have no edge worth the name."""
    if weights.shape[1] == 1:
        return
    is_alone = weights.sum(-1) - weights.diagonal(dim1=1, dim2=2) < _ALONE
    counts = is_alone.shape[1] if mask is None else mask.sum(1)
    alone = is_alone.sum(1) if mask is None else (is_alone & mask).sum(1)
    lost = int((alone * 2 > counts).sum())
    if lost:
        _log.warning(
            "spectral: the graph is all but the identity in %d of %d samples, so their clusters "
            "are noise; sigma=%g is small against the distances between the tokens",
            lost,
            len(weights),
            sigma,
        )


def _check(k: int, N: int) -> None:
    if not 1 <= k <= N:
        raise ValueError(f"k is 1 to the number of points, {N}, got {k}")


def _check_graph(
    points: Tensor, neighbours: int | None, sigma: float, graph: str, graph_mask: Tensor | None
) -> None:
    N = points.shape[1]
    if graph not in GRAPHS:
        raise ValueError(f"graph is one of {', '.join(GRAPHS)}, got {graph!r}")
    if graph == "knn" and (neighbours is None or neighbours < 1):
        raise ValueError(f"graph 'knn' needs neighbours, at least 1, got {neighbours}")
    if not sigma > 0:
        raise ValueError(f"sigma is above 0, got {sigma}")
    if graph_mask is not None:
        if graph_mask.shape != (N, N) or graph_mask.dtype != torch.bool:
            raise ValueError(
                f"graph_mask is bool [{N}, {N}], got {graph_mask.dtype} {list(graph_mask.shape)}"
            )
        if not torch.equal(graph_mask, graph_mask.T) or not graph_mask.diagonal().all():
            raise ValueError("graph_mask is symmetric and True on its diagonal")


PLUGIN = spectral
