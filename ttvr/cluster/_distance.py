"""Exact distances between the points of each sample, from one Gram product."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ttvr.cluster import METRICS
from ttvr.errors import TtvrError

EPS = 1e-6  # added to a norm before dividing by it, as published
_BYTES = (2 << 20, 256 << 20)  # in float64 at a time: what a CPU's cache holds; a GPU
_SIDE = 96  # of a block of the Gram product, about
# Below this share of the squared norm a squared distance is not left to a difference of products:
# above it, 1e-13 of rounding in float64 is lost in the one rounding to float32.
_NEAR = 2.1e-6
_PAIRS = 4096
_LARGEST = torch.finfo(torch.float32).max / 4  # norm; a distance is at most twice as large


class Distances(NamedTuple):
    """Of every pair of points.

    Attributes:
        matrix: [B, N, N] float32, symmetric, zero on the diagonal and between copies. Copies (equal
            in all D) have equal rows.
        norms: [B, N] float32, L2 norm of each point as it was given.
    """

    matrix: Tensor
    norms: Tensor


@torch.no_grad()
def distances(
    points: Tensor,
    *,
    metric: str = "euclidean",
    p: float = 2.0,
    pre_norm: bool = False,
    is_squared: bool = False,
    offset: int = 0,
) -> Distances:
    """Computed in float64 and rounded once.

    In float32 a Gram product gives copies a distance of up to 3e-3 instead of zero, and that noise
    would decide which member of a pair is its medoid. Half of the product is taken, and mirrored.

    Args:
        points: [B, N, D] of any floating dtype.
        metric: "euclidean" (Minkowski of order `p`) or "cosine": 1 - the product of the points,
            each divided by (its norm + 1e-6).
        p: order of the Minkowski distance, > 0.
        pre_norm: divide each point by (its norm + 1e-6) first.
        is_squared: give the squares, of Euclidean distances only.
        offset: index of the first sample, for the message.

    Raises:
        TtvrError: a point is not finite, or a distance beyond float32; names the sample.
        ValueError: an unknown metric or order, or another shape.
    """
    _check(points, metric, p)
    B, N, D = points.shape
    matrix = torch.empty(B, N, N, device=points.device)
    norms = torch.empty(B, N, device=points.device)
    step = max(1, _BYTES[points.device.type != "cpu"] // (8 * N * max(N, D)))
    for start in range(0, B, step):
        exact = points[start : start + step].double()
        some = Distances(matrix[start : start + step], norms[start : start + step])
        is_product = metric == "cosine" or p == 2
        if pre_norm or metric == "cosine" or not is_product:
            lengths = torch.linalg.vector_norm(exact, dim=-1)
            some.norms.copy_(_refused(lengths, offset + start, is_squared=is_squared))
        if pre_norm or metric == "cosine":
            exact = exact / (lengths + EPS)[..., None]
        if not is_product:
            for top, end in _blocks(N):
                found = torch.cdist(exact[:, top:end], exact[:, :end], p=p)
                _mirror(found, some.matrix, top)
            _refused(some.matrix.amax(-1), offset + start, is_squared=False)  # of a small p
            continue
        squares, original = _by_products(
            exact, some.matrix, is_cosine=metric == "cosine", is_squared=is_squared
        )
        if not pre_norm and metric == "euclidean":
            some.norms.copy_(_refused(squares.sqrt(), offset + start, is_squared=is_squared))
        if original is not None:
            wide = original[:, :, None].expand_as(some.matrix)
            some.matrix.copy_(some.matrix.gather(1, wide).gather(2, wide.mT))
            some.norms.copy_(some.norms.gather(1, original))
    return Distances(matrix, norms)


def _by_products(
    exact: Tensor, matrix: Tensor, *, is_cosine: bool, is_squared: bool
) -> tuple[Tensor, Tensor | None]:
    """Distances from the Gram product, half of it, and the other half mirrored.

    Args:
        exact: [c, N, D] float64.
        matrix: [c, N, N] float32, filled.
        is_cosine: the points are unit vectors, and 1 - cosine is wanted.
        is_squared: else the squares are.

    Returns:
        Squared norms [c, N] float64, and of each point its lowest copy [c, N] int64, None if there
        are no copies.
    """
    c, N, _ = exact.shape
    squares = exact.new_empty(c, N)
    itself = torch.arange(N, device=exact.device)
    original = itself.repeat(c, 1)
    for top, end in _blocks(N):
        # Autocast leaves float64 alone.
        found = torch.bmm(exact[:, top:end], exact[:, :end].mT)
        squares[:, top:end] = found[:, :, top:].diagonal(dim1=1, dim2=2)
        rows, columns = squares[:, top:end, None], squares[:, None, :end]
        torch.add(rows, found, alpha=-2, out=found).add_(columns)
        found[:, :, top:].diagonal(dim1=1, dim2=2).fill_(torch.inf)
        is_near = found < _NEAR * rows
        if is_near.any():
            _subtract(exact, top, found, is_near.nonzero(), original)
        if is_cosine:
            is_copy = found == 0
            # What the 1e-6 took from the unit vectors: 2 - 2xy = |x - y|^2 + 1 - x^2 + 1 - y^2.
            found.add_(1 - rows).add_(1 - columns).div_(2).masked_fill_(is_copy, 0)
        elif not is_squared:
            found.sqrt_()
        _mirror(found, matrix, top)
    return squares, original if (original != itself).any() else None


def _blocks(N: int) -> list[tuple[int, int]]:
    """First and last row of the blocks of about `_SIDE` that a matrix is filled by."""
    side = -(-N // -(-N // _SIDE))
    return [(top, min(top + side, N)) for top in range(0, N, side)]


def _mirror(found: Tensor, matrix: Tensor, top: int) -> None:
    """Put rows [c, R, C] up to the diagonal, which are those from `top` on, into both halves."""
    end = top + found.shape[1]
    matrix[:, top:end, :end] = found
    own = matrix[:, top:end, top:end]
    own.copy_(own.tril(-1)).add_(own.mT.clone())
    matrix[:, :top, top:end] = matrix[:, top:end, :top].mT


def _subtract(exact: Tensor, top: int, found: Tensor, pairs: Tensor, original: Tensor) -> None:
    """Take the squared distances of near pairs from differences, and note who is a copy of whom.

    What a copy's own entries hold does not matter: they are replaced by those of its original. So
    it is looked for first, in the lowest that is near, and its other pairs are spared.

    Args:
        exact: [c, N, D] float64.
        top: the point of row 0 of `found`.
        found: [c, R, C] float64, corrected in place below the diagonal.
        pairs: [M, 3] int64, sample, row and column of each pair, in this order.
        original: [c, N] int64 lowest copy of each point, corrected in place.
    """

    def subtract(some: Tensor) -> None:
        for sample, row, column in (part.unbind(1) for part in some.split(_PAIRS)):
            apart = (exact[sample, top + row] - exact[sample, column]).square_().sum(-1)
            found[sample, row, column] = apart
            copy = (sample * original.shape[1] + top + row)[apart == 0]
            original.view(-1).scatter_reduce_(0, copy, column[apart == 0], "amin")

    pairs = pairs[pairs[:, 2] < top + pairs[:, 1]]
    is_first = torch.ones(len(pairs), dtype=torch.bool, device=pairs.device)
    is_first[1:] = (pairs[1:, :2] != pairs[:-1, :2]).any(1)
    subtract(pairs[is_first])
    is_copy = original != torch.arange(original.shape[1], device=pairs.device)
    sample, row, column = pairs.unbind(1)
    subtract(pairs[~(is_first | is_copy[sample, top + row] | is_copy[sample, column])])


def _check(points: Tensor, metric: str, p: float) -> None:
    if points.ndim != 3 or not points.is_floating_point():
        raise ValueError(f"points are floats [B, N, D], got {points.dtype} {list(points.shape)}")
    if metric not in METRICS:
        raise ValueError(f"metric is one of {', '.join(METRICS)}, got {metric!r}")
    if not p > 0:
        raise ValueError(f"p is above 0, got {p}")


def _refused(norms: Tensor, offset: int, *, is_squared: bool) -> Tensor:
    """The norms, unless one is not finite or too large: names the first sample that has one."""
    is_bad = ~(norms < (_LARGEST**0.5 if is_squared else _LARGEST))
    if is_bad.any():
        sample, point = is_bad.nonzero()[0].tolist()
        raise TtvrError(
            f"sample {offset + sample}: token {point} is NaN, infinite or beyond float32, "
            "so it has no distance to the others; look at the frames and the weights it came from"
        )
    return norms
