"""Pooled frames against texts without the pooled frames: exact, where dropout is off.

All that a query decides is the weights of the T frames (H T with H heads), which go through two
layer norms and a linear map. A norm divides by a number; what it divides is linear in the weights.
So a pooled vector is a combination of a few vectors of the video: its mean squares and its length
are quadratic forms in the weights, its inner products combinations of a few inner products.

With weights a (of sum H), x_r the values behind the output map (a share 1/H of its bias added),
xc_r = x_r - mean over channels, u_r = (1 + W)(gamma2 xc_r) and c = (1 + W) beta2 + b, both less
their means over channels, the second norm divides by s, the third by t/s:

    s^2 = |sum a_r xc_r|^2 / D + eps,    t^2 = |sum a_r u_r + s c|^2 / D + eps s^2
    t z = sum a_r gamma3 u_r + s gamma3 c + t beta3

Multiplied out like that nothing is divided until the end; a unit vector needs no t at all.

In float32 the quadratic forms lose what cancels in them: of frames that are opposites of each
other to 1e-4, logits at scale 100 are off by 0.07, where the direct form is off by 7e-4. Of frames
that are nearly the same, or that one channel dominates, they are off by 5e-5 at most.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ttvr.heads._text_pooling import Frames, Pooling, attention, frames_of

_CACHE = 3 << 18  # numbers of float32, 3 MiB: fastest where the second level takes 2 MiB
_WIDER = 32


class Basis(NamedTuple):
    """Of each video the vectors that its pooled vectors are combinations of; N = H T.

    Attributes:
        keys: [Nv, H, T, D/H], as in `Frames`.
        mask: [Nv, T] bool.
        rows: [Nv, N+2, D]: gamma3 u_r, gamma3 c, beta3.
        forms: [Nv, 3N+3, N]: the Gram matrices of xc_r, u_r and gamma3 u_r, the inner products of
            u_r with c, of gamma3 u_r with gamma3 c and with beta3; those without gamma3 over D.
        constants: [Nv, 4]: c c / D + eps, and of gamma3 c and beta3 the three products.
    """

    keys: Tensor
    mask: Tensor
    rows: Tensor
    forms: Tensor
    constants: Tensor


def basis_of(layers: Pooling, x: Tensor, mask: Tensor) -> Basis:
    """What the pooled vectors of frames x [Nv, T, D], mask [Nv, T] bool, are made of."""
    frames = frames_of(layers, x, mask)
    values = _values_by_head(layers, frames)  # [Nv, N, D]
    D = values.shape[-1]
    values = _centered(values)
    first, last = layers.between, layers.after
    u = values * first.weight
    u = _centered(u + F.linear(u, layers.linear.weight))
    c = _centered(first.bias + layers.linear(first.bias))
    ends = torch.stack([last.weight * c, last.bias])  # [2, D]
    rows = u * last.weight
    forms = [values @ values.mT / D, u @ u.mT / D, rows @ rows.mT]
    linear = [(u @ c / D).unsqueeze(1), (rows @ ends.T).mT]
    squares = ends @ ends.T
    constants = torch.stack([c @ c / D + last.eps, squares[0, 0], squares[0, 1], squares[1, 1]])
    Nv = len(x)
    return Basis(
        frames.keys,
        mask,
        torch.cat([rows, ends.expand(Nv, 2, D)], dim=1),
        torch.cat([*forms, *linear], dim=1),
        constants.expand(Nv, 4),
    )


def combinations(
    layers: Pooling, basis: Basis, queries: Tensor, *, masked: bool, unit: bool
) -> Tensor:
    """How the videos' pooled vectors for queries [Q, D] combine `basis.rows`.

    Args:
        layers: those of `basis_of`.
        basis: of Nv videos.
        queries: [Q, D].
        masked: whether padding is left out.
        unit: of the pooled vectors made unit vectors.

    Returns:
        [Nv, N+2, Q].
    """
    a = attention(basis.keys, queries, basis.mask if masked else None).flatten(1, 2)
    N = a.shape[1]
    products = basis.forms @ a  # [Nv, 3N+3, Q]
    squares = (products[:, : 3 * N].unflatten(1, (3, N)) * a.unsqueeze(1)).sum(dim=2)
    xx, uu, zz = squares.unbind(1)
    uc, zc, zb = products[:, 3 * N :].unbind(1)
    cc, ends_cc, ends_cb, ends_bb = basis.constants.unsqueeze(-1).unbind(1)
    xx = xx + layers.between.eps
    s = xx.sqrt()
    tt = uu + 2 * s * uc + xx * cc
    t = tt.sqrt()
    if unit:
        length = zz + xx * ends_cc + tt * ends_bb + 2 * (s * (zc + t * ends_cb) + t * zb)
        scale = length.rsqrt()
    else:
        scale = t.reciprocal()
    ends = torch.stack([s * scale, t * scale], dim=1)
    return torch.cat([a * scale.unsqueeze(1), ends], dim=1)


def in_blocks(
    score: Callable[[Any, Any], Tensor], text: Any, video: Any, *, texts: int, floats: int
) -> Tensor:
    """Similarities cut into blocks that a processor's cache takes.

    Args:
        score: prepared texts and videos -> [G, Nt, Nv].
        text: prepared texts.
        video: prepared videos.
        texts: in a block, about; more where there are few videos.
        floats: that `score` holds per pair. On other devices than a CPU, where the time goes into
            starting operations, blocks are `_WIDER` times larger.

    Returns:
        [G, Nt, Nv].
    """
    Nt, Nv = len(text[0]), len(video[0])
    room = _CACHE // floats
    if text[0].device.type != "cpu":
        texts, room = texts * _WIDER, room * _WIDER
    columns = max(1, room // max(1, min(texts, Nt)))
    rows = max(1, room // max(1, min(columns, Nv)))
    parts = []
    for some in _cut(text, rows):
        parts.append(torch.cat([score(some, few) for few in _cut(video, columns)], dim=2))
    return torch.cat(parts, dim=1)


def _cut(state: Any, size: int) -> list[Any]:
    return [type(state)(*part) for part in zip(*(x.split(size) for x in state), strict=True)]


def _values_by_head(layers: Pooling, frames: Frames) -> Tensor:
    """Values [Nv, H, T, D/H] -> [Nv, H*T, D] behind the output map, each of one head alone."""
    Nv, H, T, C = frames.values.shape
    own = torch.eye(H, dtype=frames.values.dtype, device=frames.values.device)
    x = frames.values.unsqueeze(3) * own[:, None, :, None]  # [Nv, H, T, H, D/H]
    x = x.reshape(Nv, H * T, H * C)
    if layers.maps is None:
        return x
    out = layers.maps["out_proj"]
    return F.linear(x, out.weight, None if out.bias is None else out.bias / H)


def _centered(x: Tensor) -> Tensor:
    return x - x.mean(dim=-1, keepdim=True)
