"""Small pieces that several heads are made of."""

from __future__ import annotations

import torch
from torch import Tensor

from ttvr.errors import TtvrError


def unit(x: Tensor) -> Tensor:
    """X [..., D] over its Euclidean norm along the last axis, in at least float32.

    There is no epsilon, as in the published heads: a zero vector has no direction and gives NaN.
    """
    if x.dtype not in (torch.float32, torch.float64):
        x = x.float()
    return x / x.norm(dim=-1, keepdim=True)


def masked_mean_of_units(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of the unit vectors of the real rows, itself made a unit vector.

    Args:
        x: [B, T, D]. What stands in masked rows is never read.
        mask: [B, T] bool, True = real.

    Returns:
        [B, D] unit vectors.

    Raises:
        TtvrError: a row of the mask has no True.
    """
    empty = (~mask.any(dim=1)).nonzero()
    if len(empty):
        raise TtvrError(f"video {int(empty[0])} of the batch has no real frame, nothing to compare")
    weight = mask.unsqueeze(-1)
    # Filled before the division: 0/0 in a padded row would reach the gradient as NaN * 0.
    units = unit(x.masked_fill(~weight, 1.0)) * weight
    return unit(units.sum(dim=1) / weight.sum(dim=1))
