"""Frames pooled for a text: the transformer of X-Pool, whose layers TC-MGC has too.

Gorti et al., "X-Pool: Cross-Modal Language-Video Attention for Text-Video Retrieval" (2022), with a
residual as its code has it: it starts after the second norm, neither query nor frames are added.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ttvr.errors import UsageError


class Pooling(NamedTuple):
    """The layers that pool frames for a query, wherever they are registered.

    Attributes:
        before: norm of queries and of frames, one for both.
        between: norm of what was attended.
        after: norm of the result.
        linear: the residual branch.
        dropout: of that branch.
        maps: `q_proj`, `k_proj`, `v_proj` and `out_proj`; None: none of them.
        heads: of attention, each on its own share of the channels.
    """

    before: nn.LayerNorm
    between: nn.LayerNorm
    after: nn.LayerNorm
    linear: nn.Linear
    dropout: nn.Dropout
    maps: nn.ModuleDict | None
    heads: int


class Frames(NamedTuple):
    """What queries attend to.

    Attributes:
        keys: [Nv, H, T, D/H], divided by the root of D/H.
        values: [Nv, H, T, D/H].
        mask: [Nv, T] bool, True = real.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor


def add_layers(owner: nn.Module, width: int, dropout: float) -> None:
    """Register norms, residual branch and dropout under the names of X-Pool's code.

    Raises:
        UsageError: dropout is no probability below one.
    """
    if not 0 <= dropout < 1:
        raise UsageError(f"dropout is at least 0 and below 1, got {dropout}")
    for name in ("layer_norm1", "layer_norm2", "layer_norm3"):
        setattr(owner, name, nn.LayerNorm(width))
    owner.linear_proj = nn.Linear(width, width)
    owner.dropout = nn.Dropout(dropout)


def layers_of(owner: nn.Module, maps: nn.ModuleDict | None, heads: int) -> Pooling:
    """The layers that `add_layers` registered.

    Raises:
        UsageError: the width does not divide into the heads.
    """
    width = owner.linear_proj.in_features
    if heads < 1 or width % heads:
        raise UsageError(f"width {width} does not divide into {heads} heads")
    norms = owner.layer_norm1, owner.layer_norm2, owner.layer_norm3
    return Pooling(*norms, owner.linear_proj, owner.dropout, maps, heads)


def attention_maps(width: int, *, bias: bool) -> nn.ModuleDict:
    """The four maps of attention, the identity at first."""
    names = ("q_proj", "k_proj", "v_proj", "out_proj")
    maps = nn.ModuleDict({name: nn.Linear(width, width, bias=bias) for name in names})
    for linear in maps.values():
        start_as_identity(linear)
    return maps


def start_as_identity(linear: nn.Linear) -> None:
    """Make a square map the identity, in place; its bias, if any, zero."""
    nn.init.eye_(linear.weight)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


def queries_of(layers: Pooling, x: Tensor) -> Tensor:
    """Texts [..., D] -> queries [..., D]."""
    x = layers.before(x)
    return x if layers.maps is None else layers.maps["q_proj"](x)


def frames_of(layers: Pooling, x: Tensor, mask: Tensor) -> Frames:
    """Keys and values of frames x [Nv, T, D] with a mask [Nv, T] bool."""
    x = layers.before(x)
    keys = values = x
    if layers.maps is not None:
        keys, values = layers.maps["k_proj"](x), layers.maps["v_proj"](x)
    keys, values = (y.unflatten(-1, (layers.heads, -1)).transpose(1, 2) for y in (keys, values))
    return Frames(keys * keys.shape[-1] ** -0.5, values, mask)


def attention(keys: Tensor, queries: Tensor, mask: Tensor | None) -> Tensor:
    """How much each frame counts for each query.

    Args:
        keys: [Nv, H, T, D/H], as in `Frames`.
        queries: [Q, D].
        mask: [Nv, T] bool; None: padding is attended to as well.

    Returns:
        [Nv, H, T, Q], the sum over T is 1.
    """
    Nv, H, T, C = keys.shape
    keys = keys.transpose(0, 1).reshape(H, Nv * T, C)
    scores = keys @ queries.view(-1, H, C).permute(1, 2, 0)  # [H, Nv*T, Q]
    scores = scores.view(H, Nv, T, len(queries)).transpose(0, 1)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, :, None], -torch.inf)
    return scores.softmax(dim=2)


def pool(layers: Pooling, queries: Tensor, frames: Frames, *, masked: bool) -> Tensor:
    """Each video pooled for each query: the direct form, with dropout in training.

    Args:
        layers: of the pooling.
        queries: [Q, D].
        frames: of Nv videos.
        masked: whether padding is left out.

    Returns:
        [Nv, Q, D], not normalized.
    """
    weights = attention(frames.keys, queries, frames.mask if masked else None)
    x = (weights.transpose(2, 3) @ frames.values).transpose(1, 2).flatten(2)  # [Nv, Q, D]
    x = layers.between(x if layers.maps is None else layers.maps["out_proj"](x))
    return layers.after(x + layers.dropout(layers.linear(x)))


def mean_attention(layers: Pooling, queries: Tensor, frames: Frames, *, masked: bool) -> Tensor:
    """Weights of frames for queries [..., D], averaged over heads: [..., Nv, T]."""
    weights = attention(frames.keys, queries.flatten(0, -2), frames.mask if masked else None)
    return weights.mean(dim=1).permute(2, 0, 1).unflatten(0, queries.shape[:-1])


def empty_padding(x: Tensor, mask: Tensor) -> Tensor:
    """X [B, N, D] with ones in the rows that the mask [B, N] bool has not: they have a direction.

    What padding holds may be anything; 0/0 in one place would reach other gradients as NaN * 0.
    """
    return x.masked_fill(~mask.unsqueeze(-1), 1.0)
