"""Losses that several heads share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def info_nce(logits: Tensor) -> Tensor:
    """Symmetric contrastive loss of matched pairs.

    Args:
        logits: [B, B], rows are texts, columns videos, matched pairs on the diagonal, already
            multiplied by the logit scale.

    Returns:
        Scalar, at least float32: the mean of the cross entropies over rows and over columns.

    Raises:
        ValueError: the matrix is not square.
    """
    if logits.ndim != 2 or logits.shape[0] != logits.shape[1]:
        raise ValueError(f"expected square logits, got {list(logits.shape)}")
    if logits.dtype not in (torch.float32, torch.float64):
        logits = logits.float()
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
