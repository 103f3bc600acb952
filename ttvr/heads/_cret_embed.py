"""CRET's score as one inner product: a global and a local part side by side."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

TINY = 1e-12  # the least norm divided by


def embed(whole: Tensor, slots: Tensor, *, beta: float, per_center: bool = False) -> Tensor:
    """The vector of a text or a video.

    The inner product of a text's and a video's is S = S_g + beta S_l exactly, and the squared norm
    of each is 1 + beta: order by inner product, cosine and distance is the same.

    Args:
        whole: [B, D], the sentence, or the mean of the frames; not normalized.
        slots: [B, C, d_o] of the centers; not normalized.
        beta: weight of the local part, not negative.
        per_center: as `local_units`.

    Returns:
        [B, D + C*d_o].
    """
    local = local_units(slots, per_center=per_center)
    return torch.cat([safe_unit(whole), beta**0.5 * local], dim=1)


def local_units(slots: Tensor, *, per_center: bool = False) -> Tensor:
    """Unit vectors [B, C*d_o] of slots [B, C, d_o], whose inner products are S_l.

    Args:
        slots: not normalized.
        per_center: S_l is the mean of the centers' cosines; else one cosine of all slots together.
    """
    if per_center:
        return safe_unit(slots).flatten(1) / slots.shape[1] ** 0.5
    return safe_unit(slots.flatten(1))


def safe_unit(x: Tensor) -> Tensor:
    """X [..., D] over its norm, which counts as TINY at least: a zero vector stays one.

    The published heads divide without such a floor (`unit`); CRET's specification has it.
    """
    return F.normalize(x, dim=-1, eps=TINY)


def wide(x: Tensor) -> Tensor:
    """X in at least float32: in half precision q / tau^2 overflows."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()
