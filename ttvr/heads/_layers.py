"""Small pieces that several heads are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ttvr.clip.layers import Attention
from ttvr.errors import TtvrError

SHARPNESS = 100.0  # one over the temperature .01 of X-CLIP and UCoFiA, the lambda of TC-MGC
_STD = 0.02


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
    require_frames(mask)
    weight = mask.unsqueeze(-1)
    # Filled before the division: 0/0 in a padded row would reach the gradient as NaN * 0.
    units = unit(x.masked_fill(~weight, 1.0)) * weight
    return unit(units.sum(dim=1) / weight.sum(dim=1))


def require_frames(mask: Tensor) -> None:
    """Refuse videos without a real frame, of which published code makes NaN.

    Args:
        mask: [B, T] bool, True = real.

    Raises:
        TtvrError: a row has no True.
    """
    empty = (~mask.any(dim=1)).nonzero()
    if len(empty):
        raise TtvrError(f"video {int(empty[0])} of the batch has no real frame, nothing to compare")


def draw_as_authors(module: nn.Module) -> None:
    """Draw new weights as CLIP4Clip and those who built on it do, in place.

    Linear maps and embeddings from N(0, 0.02), biases zero; query, key and value maps of attention
    by Glorot's uniform rule. Layer norms, LSTMs and bare parameters stay as they are.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=_STD)
            if getattr(part, "bias", None) is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, Attention):
            nn.init.xavier_uniform_(part.in_proj_weight)
            nn.init.zeros_(part.in_proj_bias)
