"""CRET's temporal encoder: frames look at each other before their mean is taken."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ttvr.clip.layers import Block
from ttvr.heads._cret_options import largest_divisor, require_range, require_whole
from ttvr.heads._layers import draw_as_authors

HEAD_WIDTH = 64

_SLOWEST, _FASTEST = 0.5, 32.0  # turns over a video; the fastest tells apart up to 64 frames


class DropoutBlock(nn.Module):
    """A pre-norm block with GELU, and dropout of what it adds.

    Args:
        width: D.
        heads: divides D.
        dropout: share of numbers left out in training.
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.block = Block(width, heads, "gelu")
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """X [B, T, D] -> [B, T, D]; the rows of the mask [B, T] alone are keys."""
        block = self.block
        x = x + self.dropout(block.attn(block.ln_1(x), seen=mask))
        return x + self.dropout(block.mlp(block.ln_2(x)))


class TemporalEncoder(nn.Module):
    """Pre-norm blocks over frames that know their time.

    The paper has such an encoder of three layers; what it adds to tell time is not known. Here
    blocks see frames with a code of time, of which nothing is left in the result: a new encoder
    changes CLIP's frames little, and they stay where CLIP's sentences are.

    Args:
        width: D.
        layers: 0 leaves frames as they are.
        dropout: as `DropoutBlock`.

    Raises:
        UsageError: a number out of its range.
    """

    def __init__(self, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        require_whole("temporal_layers", layers, least=0)
        require_range("dropout", dropout, most=1.0)
        heads = largest_divisor(width, max(1, width // HEAD_WIDTH))
        self.layers = nn.ModuleList(DropoutBlock(width, heads, dropout) for _ in range(layers))
        draw_as_authors(self)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Encode frames.

        Args:
            x: [B, T, D]. What stands in masked rows is never read.
            mask: [B, T] bool, True = real; at least one of each video.

        Returns:
            [B, T, D], 0 in masked rows.
        """
        padded = ~mask.unsqueeze(-1)
        x = x.masked_fill(padded, 0.0)
        if not self.layers:
            return x
        code = time_code(mask, x.shape[-1], x.dtype)
        x = x + code
        for layer in self.layers:
            x = layer(x, mask)
        return (x - code).masked_fill(padded, 0.0)


def time_code(mask: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Sines and cosines of normalized time, for any number of frames.

    Frame m of M real ones stands at (m + .5) / M. A learned table would have rows that were never
    trained where there are more frames than in training.

    Args:
        mask: [B, T] bool, True = real.
        width: D.
        dtype: of the code, and of what it is computed in.

    Returns:
        [B, T, D], between -1 and 1; without meaning in masked rows.
    """
    place = mask.cumsum(dim=1) - 1
    time = (place + 0.5).to(dtype) / mask.sum(dim=1, keepdim=True)
    turns = torch.logspace(
        math.log2(_SLOWEST),
        math.log2(_FASTEST),
        (width + 1) // 2,
        base=2.0,
        dtype=dtype,
        device=mask.device,
    )
    angle = 2 * math.pi * time.unsqueeze(-1) * turns  # [B, T, D/2]
    return torch.cat([angle.sin(), angle.cos()], dim=-1)[..., :width]
