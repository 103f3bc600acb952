"""Exact distances between the points of each sample."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ttvr.errors import TtvrError

METRICS = ("euclidean", "cosine")
EPS = 1e-6  # added to a norm before dividing by it, as published


class Distances(NamedTuple):
    """Of every pair of points.

    Attributes:
        matrix: [B, N, N] float32, symmetric, zero on the diagonal and between copies.
        norms: [B, N] float32, L2 norm of each point as it was given.
    """

    matrix: Tensor
    norms: Tensor


def distances(
    points: Tensor, *, metric: str = "euclidean", p: float = 2.0, pre_norm: bool = False
) -> Distances:
    """Computed in float64 and rounded once.

    Args:
        points: [B, N, D] of any floating dtype.
        metric: "euclidean" (Minkowski of order `p`) or "cosine".
        p: order of the Minkowski distance, > 0.
        pre_norm: divide each point by its norm first.

    Raises:
        TtvrError: a point is not finite; names the sample.
        ValueError: an unknown metric or order, or another shape.
    """
    check(points, metric=metric, p=p)
    exact = points.detach().double()
    norms = torch.linalg.vector_norm(exact, dim=-1, keepdim=True)
    refuse_nan(norms.squeeze(-1))
    if pre_norm or metric == "cosine":
        exact = exact / (norms + EPS)
    if metric == "cosine":
        matrix = 1 - exact @ exact.mT
        matrix = (matrix + matrix.mT) / 2
        matrix.masked_fill_(_copies(points), 0).clamp_(min=0)
    else:
        matrix = torch.cdist(exact, exact, p=p, compute_mode="donot_use_mm_for_euclid_dist")
    return Distances(matrix.float(), norms.squeeze(-1).float())


def check(points: Tensor, *, metric: str, p: float) -> None:
    """Refuse what a programmer got wrong.

    Raises:
        ValueError: the shape, the dtype, the metric or the order.
    """
    if points.ndim != 3 or not points.is_floating_point() or not points.shape[1]:
        raise ValueError(f"points are floats [B, N, D], got {points.dtype} {list(points.shape)}")
    if metric not in METRICS:
        raise ValueError(f"metric is one of {', '.join(METRICS)}, got {metric!r}")
    if not p > 0:
        raise ValueError(f"p is above 0, got {p}")


def refuse_nan(norms: Tensor) -> None:
    """Name the first sample with a point that is not finite.

    Args:
        norms: [B, N].

    Raises:
        TtvrError: there is one.
    """
    bad = ~norms.isfinite()
    if bad.any():
        sample, point = bad.nonzero()[0].tolist()
        raise TtvrError(f"sample {sample}: token {point} is NaN or infinite, so nothing is nearest")


def _copies(points: Tensor) -> Tensor:
    return (points[:, :, None] == points[:, None]).all(-1)
