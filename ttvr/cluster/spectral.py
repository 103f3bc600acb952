"""Spectral clustering: k-medoids++ on the rows of the graph's lowest eigenvectors.

Zhao et al., "CenterCLIP" (SIGIR 2022), section 3.3, as its code has it: Gaussian graph with self
loops, nearest neighbors joined by "or", normalized Laplacian. We depart in that the eigenvectors
come from a symmetric solver in place of a singular value decomposition, no sign is corrected (the
rows' distances do not depend on signs), and the first seed is the row of the largest norm before
the rows are normalized (after it, rounding noise would choose).
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from ttvr.cluster import Clusters
from ttvr.cluster._distance import EPS, distances
from ttvr.cluster.kmedoids import kmedoids

GRAPHS = ("knn", "dense")

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
    weights = affinity(
        points, neighbours=neighbours, sigma=sigma, graph=graph, graph_mask=graph_mask, mask=mask
    )
    vectors = _lowest(weights, k)
    norms = vectors.norm(dim=-1, keepdim=True)
    if first is None:
        first = norms.squeeze(-1).argmax(1)
    return kmedoids(
        vectors / (norms + EPS),
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
) -> Tensor:
    """Weights of the graph: exp(-d^2 / 2 sigma^2) where it has an edge, else 0.

    Args:
        points: and all others as in `spectral`.

    Returns:
        [B, N, N] float32, symmetric, 1 on the diagonal (0 for points a mask leaves out).
    """
    B, N, _ = points.shape
    weights = (distances(points).matrix.square() / (-2 * sigma**2)).exp()
    if mask is not None:
        weights = weights * (mask[:, :, None] & mask[:, None])
    if graph == "knn":
        if neighbours is None:
            raise ValueError("graph='knn' needs neighbours")
        least = weights.topk(min(neighbours, N), dim=-1).values[..., -1:]
        kept = weights >= least
        weights = weights * (kept | kept.mT)
    return weights if graph_mask is None else weights * graph_mask


@torch.no_grad()
def embedding(weights: Tensor, k: int) -> Tensor:
    """Rows of the normalized Laplacian's K lowest eigenvectors, each divided by its norm.

    Args:
        weights: [B, N, N] of a graph, symmetric, as `affinity` makes them.
        k: eigenvectors.

    Returns:
        [B, N, K] float32, fixed up to a rotation of the K columns.
    """
    vectors = _lowest(weights, k)
    return vectors / (vectors.norm(dim=-1, keepdim=True) + EPS)


def _lowest(weights: Tensor, k: int) -> Tensor:
    N = weights.shape[1]
    degrees = weights.sum(-1)
    scale = degrees.clamp(min=EPS).rsqrt()
    laplacian = -weights * scale[:, :, None] * scale[:, None]
    diagonal = laplacian.diagonal(dim1=1, dim2=2)
    diagonal += torch.where(degrees > 0, 1.0, 3.0)
    return torch.linalg.eigh(laplacian).eigenvectors[..., :k]


def neighborhood(frames: int, patches: int, *, window: int | None = None, span: int = 7) -> Tensor:
    """Which tokens of a segment are near in space and time, for `graph_mask`.

    Args:
        frames: of the segment.
        patches: per frame, the square of a whole number, in raster order.
        window: side of the square around a patch; default 9, or 19 from 100 patches on.
        span: frames around a frame, itself included.

    Returns:
        [N, N] bool with N = frames * patches, frame-major: offsets of at most window // 2 in x and
        in y and span // 2 in time.
    """
    raise NotImplementedError


PLUGIN = spectral
