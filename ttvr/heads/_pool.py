"""Frames pooled by what a text asks for: the attention of X-Pool and TC-MGC, in two equal forms.

Gorti et al., "X-Pool" (CVPR 2022), section 3, as its code has it; TC-MGC uses the same block as its
language-video attention, without projections.

The direct form makes a pooled vector of D numbers for every query with every video. In evaluation
that is not needed: everything in a pooled vector that depends on the query goes through its n
attention weights. So each video gets a basis of a few rows once, and the inner product of any
vector with the normalized pooled one is a sum over those rows, the norms of both layer
normalizations being quadratic forms in the weights. That is exact, not an approximation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ttvr.clip.layers import LayerNorm
from ttvr.errors import UsageError

_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


class Basis(NamedTuple):
    """What pooling needs of a video, of H heads and n frames: R = H * n.

    Attributes:
        keys: [V, R, D], a head's keys in its channels, zero elsewhere.
        rows: [V, R+2, D], of which pooled vectors are sums: one per head and frame, what comes of
            the biases alone, the bias of the last normalization.
        forms: [V, 3R+3, R]: the quadratic forms of the weights, then their linear terms.
        constants: [V, 3], what those have without weights.
        mask: [V, n] bool, frames that are attended to.
    """

    keys: Tensor
    rows: Tensor
    forms: Tensor
    constants: Tensor
    mask: Tensor


class FramePool(nn.Module):
    """One block: LN2 of attention over the frames, then LN3 of that plus a linear map of it.

    z = LN3(o + dropout(W o + b)), o = LN2(attention(LN1 query; LN1 frames)). The first norm is
    shared by queries and frames; no residual comes from either.

    Args:
        width: D.
        heads: of the attention, dividing D.
        dropout: of the linear map, in training.
        projections: "biased" (X-Pool), "plain" (TC-MGC's paper) or "none" (TC-MGC's code).
    """

    def __init__(self, width: int, *, heads: int, dropout: float, projections: str) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            raise UsageError(f"width {width} does not divide into {heads} heads")
        if not 0 <= dropout < 1:
            raise UsageError(f"dropout is from 0 to below 1, got {dropout}")
        self.heads = heads
        self.cross_attn = nn.ModuleDict()
        if projections != "none":
            for name in _PROJECTIONS:
                self.cross_attn[name] = nn.Linear(width, width, bias=projections == "biased")
        self.linear_proj = nn.Linear(width, width)
        self.layer_norm1 = LayerNorm(width)
        self.layer_norm2 = LayerNorm(width)
        self.layer_norm3 = LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        for part in (*self.cross_attn.values(), self.linear_proj):
            nn.init.eye_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)

    def queries(self, x: Tensor) -> Tensor:
        """Queries x [N, D] as they meet keys [N, D], the scale of attention included."""
        projected = self._projected("q_proj", self.layer_norm1(x))
        return projected * (x.shape[-1] / self.heads) ** -0.5

    def direct(self, queries: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
        """Pooled vectors [V, N, D] of queries [N, D] with frames [V, n, D], mask [V, n] bool."""
        weights = self.weights(queries, frames, mask)  # [V, H, N, n]
        values = self._projected("v_proj", self.layer_norm1(frames))
        pooled = weights @ self._by_head(values)  # [V, H, N, D/H]
        pooled = self._projected("out_proj", pooled.transpose(1, 2).flatten(2))
        pooled = self.layer_norm2(pooled)
        return self.layer_norm3(pooled + self.dropout(self.linear_proj(pooled)))

    def weights(self, queries: Tensor, frames: Tensor, mask: Tensor) -> Tensor:
        """Attention [V, H, N, n] of queries [N, D] over frames [V, n, D], mask [V, n] bool."""
        keys = self._by_head(self._projected("k_proj", self.layer_norm1(frames)))
        own = queries.unflatten(-1, (self.heads, -1)).transpose(0, 1)  # [H, N, D/H]
        scores = own @ keys.transpose(-1, -2)
        return scores.masked_fill(~mask[:, None, None], -torch.inf).softmax(dim=-1)

    def basis(self, frames: Tensor, mask: Tensor) -> Basis:
        """What pooling needs of frames [V, n, D] with a mask [V, n] bool."""
        (V, n, D), H = frames.shape, self.heads
        normed = self.layer_norm1(frames)
        keys = self._spread(self._projected("k_proj", normed))
        values = self._spread(self._projected("v_proj", normed))
        if self.cross_attn:
            out = self.cross_attn["out_proj"]
            # The weights of each of H heads sum to one, so each frame may carry a share of a bias.
            bias = None if out.bias is None else out.bias / H
            values = F.linear(values, out.weight, bias)
        values = values - values.mean(dim=-1, keepdim=True)  # [V, R, D]
        carried = values * self.layer_norm2.weight
        carried = carried + F.linear(carried, self.linear_proj.weight)
        alone = self.layer_norm2.bias
        alone = alone + self.linear_proj(alone)
        made = torch.cat([carried, alone.expand(V, 1, D)], dim=1)  # [V, R+1, D]
        made = made - made.mean(dim=-1, keepdim=True)
        gained, bias = made * self.layer_norm3.weight, self.layer_norm3.bias
        first, second = values @ values.mT / D, made @ made.mT / D
        third, along = gained @ gained.mT, gained @ bias  # [V, R+1, R+1], [V, R+1]
        R = n * H
        forms = (first, second[:, :R, :R], third[:, :R, :R])
        linear = (second[:, R:, :R], third[:, R:, :R], along[:, None, :R])
        constants = torch.stack([second[:, R, R], third[:, R, R], along[:, R]], dim=1)
        rows = torch.cat([gained, bias.expand(V, 1, D)], dim=1)
        return Basis(keys, rows, torch.cat([*forms, *linear], dim=1), constants, mask)

    def coefficients(self, basis: Basis, queries: Tensor, *, is_unit: bool = True) -> Tensor:
        """Of the rows of a basis, whose sum is the pooled vector.

        Args:
            basis: V videos.
            queries: [N, D], from `queries`.
            is_unit: of the pooled vector made a unit vector.

        Returns:
            [V, R+2, N].
        """
        (V, R, _), N = basis.keys.shape, len(queries)
        scores = (basis.keys.flatten(0, 1) @ queries.T).view(V, self.heads, -1, N)
        if not basis.mask.all():
            scores = scores.masked_fill(~basis.mask[:, None, :, None], -torch.inf)
        weights = scores.softmax(dim=2).view(V, R, N)
        found = torch.bmm(basis.forms, weights)  # [V, 3R+3, N]
        squares = [(found[:, at : at + R] * weights).sum(dim=1) for at in range(0, 3 * R, R)]
        linear = found[:, 3 * R :].unbind(1)  # three of [V, N]
        constants = basis.constants.unsqueeze(-1).unbind(1)  # three of [V, 1]
        inner = (squares[0] + self.layer_norm2.eps).rsqrt()
        spread = inner * (squares[1] * inner + 2 * linear[0]) + constants[0]
        outer = (spread + self.layer_norm3.eps).sqrt()
        if not is_unit:
            scale = outer.reciprocal()
            return torch.cat(
                [
                    weights * (inner * scale)[:, None],
                    scale[:, None],
                    torch.ones_like(scale)[:, None],
                ],
                dim=1,
            )
        length = inner * (squares[2] * inner + 2 * linear[1]) + constants[1]
        length = length + 2 * outer * (linear[2] * inner + constants[2])
        bias = self.layer_norm3.bias
        scale = (length + outer.square() * (bias @ bias)).rsqrt()
        last = torch.stack([scale, outer * scale], dim=1)  # [V, 2, N]
        return torch.cat([weights * (inner * scale)[:, None], last], dim=1)

    def pair_floats(self, frames: int) -> int:
        """Numbers that `coefficients` holds at once for a query with a video of so many frames."""
        R = frames * self.heads
        return 8 * R + 12

    def _projected(self, name: str, x: Tensor) -> Tensor:
        return self.cross_attn[name](x) if self.cross_attn else x

    def _by_head(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [V, H, n, D/H]

    def _spread(self, x: Tensor) -> Tensor:
        """X [V, n, D] -> [V, H*n, D]: each head's channels in rows of its own."""
        if self.heads == 1:
            return x
        V, n, D = x.shape
        wide = x.new_zeros(V, self.heads, n, self.heads, D // self.heads)
        for head, part in enumerate(self._by_head(x).unbind(1)):
            wide[:, head, :, head] = part
        return wide.reshape(V, self.heads * n, D)
