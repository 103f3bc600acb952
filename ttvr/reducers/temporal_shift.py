"""Channels of the patch tokens move between frames, once per block: `temporal_shift[@BLOCK]`."""

from __future__ import annotations

import torch
from torch import Tensor

from ttvr.reducers._shift import ShiftReducer, shift_channels


class TemporalShift(ShiftReducer):
    """Lin et al., "TSM" (2019), as a baseline in Zhao et al. (SIGIR 2022).

    In the residual stream, before attention.
    """

    def shift(self, tokens: Tensor, real: Tensor) -> Tensor:
        """As `ShiftReducer.shift`."""
        return torch.cat([tokens[:, :, :1], shift_channels(tokens[:, :, 1:], real)], dim=2)


PLUGIN = TemporalShift
