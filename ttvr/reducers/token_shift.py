"""Channels of the class tokens move between frames, twice per block: `token_shift[@BLOCK]`."""

from __future__ import annotations

import torch
from torch import Tensor

from ttvr.reducers._shift import ShiftReducer, shift_channels


class TokenShift(ShiftReducer):
    """Zhang et al., "Token Shift Transformer" (2021), as a baseline in Zhao et al. (SIGIR 2022).

    In the residual stream, before attention and again before the MLP.
    """

    sites = ("block", "mlp")

    def shift(self, tokens: Tensor, real: Tensor) -> Tensor:
        """As `ShiftReducer.shift`."""
        return torch.cat([shift_channels(tokens[:, :, :1], real), tokens[:, :, 1:]], dim=2)


PLUGIN = TokenShift
