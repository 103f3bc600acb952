"""The layers both towers are made of, with OpenAI's parameter names; heads reuse them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-5  # of CLIP's layer normalizations
_SHORT = 256  # tokens; from twice as many on, torch's fused attention is no slower in bfloat16


class LayerNorm(nn.LayerNorm):
    """Layer normalization computed in at least float32, returned in the dtype of the input."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize the last axis of x [..., D]."""
        # A CPU takes a narrow input beside wide weights, and computes widely by itself.
        is_mixed = x.device.type == "cpu" and self.weight.dtype == torch.float32
        if is_mixed or x.dtype in (torch.float32, torch.float64):
            return super().forward(x)
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the approximation OpenAI's weights were trained with."""

    def forward(self, x: Tensor) -> Tensor:
        """Activate x [...], same shape."""
        if torch.is_grad_enabled() and x.requires_grad:
            return F.silu(1.702 * x) / 1.702  # fewer passes over memory than x * sigmoid(1.702 x)
        return torch.mul(x, 1.702).sigmoid_().mul_(x)


class Attention(nn.Module):
    """Multi-head self-attention with the parameter names of `torch.nn.MultiheadAttention`.

    Args:
        width: D.
        heads: divides D.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        *,
        causal: bool = False,
        queries: int | None = None,
        seen: Tensor | None = None,
    ) -> Tensor:
        """Attend over x [B, N, D].

        Args:
            x: [B, N, D].
            causal: position i sees positions 0..i only.
            queries: only the first so many positions ask; all positions are keys and values.
            seen: [B, N] bool, the positions that are seen by any; None: all. Not with `causal`.

        Returns:
            [B, N, D], or [B, queries, D].
        """
        B, N, D = x.shape
        wide = D // self.heads  # said, not inferred: of no rows torch infers no size
        if queries is None:
            qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
            q, k, v = qkv.view(B, N, 3, self.heads, wide).permute(2, 0, 3, 1, 4)
        else:
            weight_q, weight_kv = self.in_proj_weight.split([D, 2 * D])
            bias_q, bias_kv = self.in_proj_bias.split([D, 2 * D])
            q = F.linear(x[:, :queries], weight_q, bias_q)
            q = q.view(B, queries, self.heads, wide).transpose(1, 2)
            kv = F.linear(x, weight_kv, bias_kv)
            k, v = kv.view(B, N, 2, self.heads, wide).permute(2, 0, 3, 1, 4)
        is_learning = torch.is_grad_enabled() and x.requires_grad
        is_narrow = q.dtype == torch.bfloat16 and N <= _SHORT
        is_slow = x.device.type == "cpu" and (is_learning or is_narrow)
        attend = _attend if is_slow else F.scaled_dot_product_attention
        mask = None if seen is None else seen[:, None, None]
        out = attend(q, k, v, attn_mask=mask, is_causal=causal)  # [B, heads, N, D/heads]
        return self.out_proj(out.transpose(1, 2).flatten(2))


def _attend(
    q: Tensor, k: Tensor, v: Tensor, *, attn_mask: Tensor | None, is_causal: bool
) -> Tensor:
    """What torch's fused attention gives, on a CPU slow in bfloat16 and in the backward pass."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if is_causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    if attn_mask is None:
        return scores.softmax(dim=-1) @ v
    # Not of infinities: where nothing is seen, nothing is gathered, in place of NaN.
    scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1).masked_fill(~attn_mask, 0.0) @ v


class Block(nn.Module):
    """Pre-norm residual block: x += attention(ln_1 x), then x += MLP(ln_2 x)."""

    def __init__(self, width: int, heads: int, activation: str, eps: float = EPS) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.ln_1 = LayerNorm(width, eps=eps)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(width, 4 * width),
                gelu=QuickGELU() if activation == "quick_gelu" else nn.GELU(),
                c_proj=nn.Linear(4 * width, width),
            )
        )
        self.ln_2 = LayerNorm(width, eps=eps)

    def forward(
        self,
        x: Tensor,
        *,
        causal: bool = False,
        queries: int | None = None,
        seen: Tensor | None = None,
    ) -> Tensor:
        """X [B, N, D] -> [B, N, D], or the first `queries` positions of it; as `Attention`."""
        x = x[:, :queries] + self.attn(self.ln_1(x), causal=causal, queries=queries, seen=seen)
        return x + self.mlp(self.ln_2(x))

    def forward_reduced(
        self, x: Tensor, mask: Tensor, reducer: Any, *, seen: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The same with a token reducer called at each of its sites.

        Args:
            x: [B*T, 1+P, D].
            mask: [B, T] bool.
            reducer: has `sites` and maps ([B, T, 1+P, D], [B, T]) to something with `.tokens`
                [B, T', 1+P', D], `.mask` [B, T'] and, where it leaves tokens that nobody may see,
                `.real` [B, T', 1+P'].
            seen: [B*T, 1+P] bool; None: all tokens.

        Returns:
            [B*T', 1+P', D], [B, T'], and [B*T', 1+P'] or None.
        """
        x, mask, seen = _reduce(reducer, "block", x, mask, seen)
        attended, _, _ = _reduce(reducer, "attention", self.ln_1(x), mask, seen)
        x = x + self.attn(attended, seen=seen)
        x, mask, seen = _reduce(reducer, "mlp", x, mask, seen)
        return x + self.mlp(self.ln_2(x)), mask, seen


def _reduce(
    reducer: Any, site: str, x: Tensor, mask: Tensor, seen: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    if site not in reducer.sites:
        return x, mask, seen
    reduced = reducer(x.unflatten(0, mask.shape), mask)
    if (real := getattr(reduced, "real", None)) is not None:
        seen = real.flatten(0, 1)
    return reduced.tokens.flatten(0, 1), reduced.mask, seen


class Transformer(nn.Module):
    """A stack of blocks."""

    def __init__(
        self, width: int, layers: int, heads: int, activation: str, eps: float = EPS
    ) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, activation, eps) for _ in range(layers))
