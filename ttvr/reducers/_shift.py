"""What the reducers share that move tokens between neighboring frames."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ttvr.reducers._base import Reduced, TokenReducer


class Neighbors(NamedTuple):
    """The frames beside each frame.

    Attributes:
        before: [B, T, ...], of frame t that of t-1.
        has_before: [B, T, 1, 1] bool, False for the first one.
        after: [B, T, ...], of frame t that of t+1.
        has_after: [B, T, 1, 1] bool, False for the last one.
    """

    before: Tensor
    has_before: Tensor
    after: Tensor
    has_after: Tensor


class ShiftReducer(TokenReducer):
    """Moves parts of tokens by one frame; no parameters, and as many tokens as before.

    Args:
        width: D of the residual stream.
        mask: padding moves nowhere: beside it a video ends. Off, padded frames move as published.
    """

    def forward(self, tokens: Tensor, mask: Tensor) -> Reduced:
        """As `TokenReducer.forward`; T' = T, P' = P."""
        self.shape_after(tokens.shape[1], tokens.shape[2] - 1)
        return Reduced(self.shift(tokens, mask if self.is_masked else torch.ones_like(mask)), mask)

    def shift(self, tokens: Tensor, real: Tensor) -> Tensor:
        """Tokens [B, T, 1+P, D], with what came from the real frames [B, T] beside each."""
        raise NotImplementedError


def neighbors(x: Tensor, real: Tensor) -> Neighbors:
    """The frames beside each frame of x [B, T, ...], those that are real [B, T]."""
    has_before, has_after = real.roll(1, dims=1), real.roll(-1, dims=1)
    has_before[:, 0] = has_after[:, -1] = False
    before, after = x.roll(1, dims=1), x.roll(-1, dims=1)
    return Neighbors(before, has_before[..., None, None], after, has_after[..., None, None])


def shift_channels(x: Tensor, real: Tensor) -> Tensor:
    """Of x [B, T, L, D] an eighth of the channels from the frame after, an eighth from before.

    Lin et al., "TSM" (2019), as Zhao et al. (SIGIR 2022) use it: channels 0 .. D/8-1 of frame t
    become those of t+1, the next D/8 those of t-1, zero where there is no such frame.
    """
    fold = x.shape[-1] // 8
    moved = neighbors(x[..., : 2 * fold], real)
    later = torch.where(moved.has_after, moved.after[..., :fold], 0.0)
    earlier = torch.where(moved.has_before, moved.before[..., fold:], 0.0)
    return torch.cat([later, earlier, x[..., 2 * fold :]], dim=-1)
