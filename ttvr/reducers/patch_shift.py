"""Whole patch tokens move between frames, for attention alone: `patch_shift[@BLOCK]`."""

from __future__ import annotations

import torch
from torch import Tensor

from ttvr.errors import UsageError
from ttvr.reducers._shift import ShiftReducer, neighbors

_PARTS = 7
_LEFT, _RIGHT = 1, 4
_LAST_BLOCKS = 2


class PatchShift(ShiftReducer):
    """The token shift of Liu et al., "TS2-Net" (2022): in the normalized input of attention.

    Tokens 1, 1+f, 1+2f, ... (f a seventh of the tokens) come from the frame before, 4, 4+f, ...
    from the frame after; the first and the last frame keep their own. The residual stays.
    """

    sites = ("attention",)

    @classmethod
    def blocks(cls, layers: int) -> range:
        """The last two, as published."""
        return range(max(0, layers - _LAST_BLOCKS), layers)

    def shape_after(self, frames: int, patches: int) -> tuple[int, int]:
        """As `TokenReducer.shape_after`."""
        if patches + 1 < _PARTS:
            raise UsageError(f"{patches} patches of a frame, at least {_PARTS - 1} are needed")
        return frames, patches

    def shift(self, tokens: Tensor, real: Tensor) -> Tensor:
        """As `ShiftReducer.shift`."""
        fold = tokens.shape[2] // _PARTS
        moved = neighbors(tokens, real)
        out = tokens.clone()
        for first, beside, has in (
            (_LEFT, moved.before, moved.has_before),
            (_RIGHT, moved.after, moved.has_after),
        ):
            # Where both take a token (a fold of 1 or 3), the frame after wins.
            picked = slice(first, None, fold)
            out[:, :, picked] = torch.where(has, beside[:, :, picked], out[:, :, picked])
        return out


PLUGIN = PatchShift
