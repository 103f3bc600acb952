"""CRET's cross-modal correspondence modelling: shared learned centers ask the tokens of an item.

Ji et al. (SIGIR 2022). Center c gathers the same kind of thing from words and from patches, because
the centers and the decoder are the same for both: slot c of a text meets slot c of a video.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ttvr.errors import UsageError
from ttvr.heads._cret_options import largest_divisor, require_choice, require_whole

MODES = ("block", "attn")
HEADS = 8
_CENTER_STD = 0.02
_INNER = 4  # widths in a feed-forward layer


class TokenAttention(nn.Module):
    """Multi-head attention of queries over tokens, before any output map.

    Args:
        width: D; heads lie in it one after the other.
        heads: H, divides D.
        bias: of the three maps.
    """

    def __init__(self, width: int, heads: int, *, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=bias)
        self.key = nn.Linear(width, width, bias=bias)
        self.value = nn.Linear(width, width, bias=bias)

    def attend(
        self, x: Tensor, tokens: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Weights and what they gather; a masked token has weight 0.

        Args:
            x: [B or 1, C, D] queries.
            tokens: [B, N, D].
            mask: [B, N] bool, True = real, at least one in a row; None: all.

        Returns:
            Weights [B, C, H, N] and values [B, C, H, D/H].
        """
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(x), self.key(tokens), self.value(tokens))
        )
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5  # [B, H, C, N]
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None], -torch.inf)
        weights = scores.softmax(dim=-1)
        return weights.transpose(1, 2), (weights @ v).transpose(1, 2)

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """What each query gathers, heads side by side: [B, C, D]; arguments as `attend`."""
        return self.attend(x, tokens, mask)[1].flatten(2)


class DecoderLayer(nn.Module):
    """A post-norm decoder layer: self-attention, attention over tokens, feed-forward with ReLU.

    Args:
        width: D.
        heads: divides D.
        inner: width of the feed-forward layer; None: 4 D.
    """

    def __init__(self, width: int, heads: int, inner: int | None = None) -> None:
        super().__init__()
        inner = _INNER * width if inner is None else inner
        self.own = TokenAttention(width, heads, bias=True)
        self.own_out = nn.Linear(width, width)
        self.cross = TokenAttention(width, heads, bias=True)
        self.cross_out = nn.Linear(width, width)
        self.widen = nn.Linear(width, inner)
        self.narrow = nn.Linear(inner, width)
        self.norm_own, self.norm_cross, self.norm_inner = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Queries x [B or 1, C, D] after a look at tokens [B, N, D], mask [B, N]: [B, C, D]."""
        x = self.norm_own(x + self.own_out(self.own(x, x)))
        x = self.norm_cross(x + self.cross_out(self.cross(x, tokens, mask)))
        return self.norm_inner(x + self.narrow(self.widen(x).relu()))


class CCM(nn.Module):
    """Tokens of any number -> one vector per center. Their order does not matter.

    The paper speaks of transformer decoders and of self-attention, and prints cross-attention
    alone: "block" is the former, "attn" the latter. In a first block what centers make of each
    other is the same for all items.

    Args:
        width: D of tokens and centers.
        centers: C.
        heads: H, divides D; None: the largest divisor that is at most 8.
        mode: "block", decoder layers with biases and residuals; "attn", the printed attention and
            an output map, without biases or residual.
        layers: of "block"; "attn" has one.
        out_width: d_o of a slot. None: D, and "block" then has no output map.

    Raises:
        UsageError: a size is out of its range, an unknown mode, heads that do not divide the width.
    """

    def __init__(
        self,
        width: int,
        centers: int,
        heads: int | None = None,
        *,
        mode: str = "block",
        layers: int = 1,
        out_width: int | None = None,
    ) -> None:
        super().__init__()
        heads = largest_divisor(width, HEADS) if heads is None else heads
        require_choice("mode", mode, MODES)
        for name, value in (("centers", centers), ("heads", heads), ("layers", layers)):
            require_whole(name, value, least=1)
        if out_width is not None:
            require_whole("out_width", out_width, least=1)
        if width % heads:
            raise UsageError(f"width {width} does not divide into {heads} heads of cret")
        is_block = mode == "block"
        if not is_block and layers > 1:
            raise UsageError(f"mode attn of cret has 1 layer, got {layers}; mode block takes more")
        self.centers = nn.Parameter(torch.empty(centers, width))
        self.layers = nn.ModuleList(
            DecoderLayer(width, heads) if is_block else TokenAttention(width, heads, bias=False)
            for _ in range(layers)
        )
        self.out = (
            nn.Identity()
            if is_block and out_width is None
            else nn.Linear(width, out_width or width, bias=False)
        )
        self._draw(is_block)

    def _draw(self, is_block: bool) -> None:
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.xavier_uniform_(part.weight)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
        # Centers have to differ at the start, or all slots become the same.
        if is_block:
            nn.init.normal_(self.centers, std=_CENTER_STD)
        else:
            nn.init.orthogonal_(self.centers, gain=self.centers.shape[1] ** 0.5)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Slots of items.

        Args:
            tokens: [B, N, D]. What stands in masked rows is never read.
            mask: [B, N] bool, True = real; at least one of each item.

        Returns:
            [B, C, d_o], not normalized.
        """
        tokens = tokens.masked_fill(~mask.unsqueeze(-1), 0.0)
        x = self.centers.unsqueeze(0)
        for layer in self.layers:
            x = layer(x, tokens, mask)
        return self.out(x)
