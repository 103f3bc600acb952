"""Losses that several heads share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
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


class WordLoss(nn.Module):
    """An auxiliary loss of training: which tokens a caption has, read from a vector.

    Huang et al., "Classification Done Right for Vision-Language Pre-Training" (SuperClass, 2024):
    the tokens of a caption as the labels of a classification, here without their weights by rarity,
    and read by one linear map from the video's and from the text's vector, so that both put the
    same word in the same place.

    Args:
        tokens: V ids that are labels.
        width: D of the vectors.
    """

    def __init__(self, tokens: Sequence[int], width: int) -> None:
        super().__init__()
        self.register_buffer("tokens", torch.tensor(tokens), persistent=False)
        self.read = nn.Linear(width, len(tokens))

    def forward(self, ids: Tensor, text: Tensor, video: Tensor) -> Tensor:
        """The mean of both cross entropies.

        Args:
            ids: [B, L] int64 tokens of the captions.
            text: [B, D] vectors of the captions, times the logit scale.
            video: [B, D] vectors of their clips, likewise.

        Returns:
            Scalar float32: cross entropy with the caption's labels, each with the same share.
        """
        with torch.autocast(ids.device.type, enabled=False):
            has = (ids.unsqueeze(2) == self.tokens).any(dim=1).float()  # [B, V]
            target = has / has.sum(dim=1, keepdim=True).clamp(min=1)
            parts = [F.cross_entropy(self.read(vector.float()), target) for vector in (text, video)]
            return sum(parts) / len(parts)
