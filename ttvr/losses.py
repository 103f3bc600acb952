"""Losses that several heads share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SHARPNESS = 10.0  # a unit vector is too short for a linear map to be sure of anything


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
    the tokens of a caption as labels. Here each token is a yes or no of its own, and one linear map
    reads both the video's and the text's vector, so that both put the same word in the same place.

    Contrast alone rewards a word only once both towers have found it, and what appearance already
    tells apart earns no reward: places ("on the left") stay undiscovered for long.

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
            ids: [B, L] int64 tokens of the captions; end-of-text has the highest id.
            text: [B, D] unit vectors of the captions.
            video: [B, D] unit vectors of their clips.

        Returns:
            Scalar float32: binary cross entropies, summed over V, mean over B and over both.
        """
        with torch.autocast(ids.device.type, enabled=False):
            # What stands after end-of-text is padding, whose id is that of a token as well.
            end = ids.argmax(dim=1, keepdim=True)
            is_word = torch.arange(ids.shape[1], device=ids.device) < end  # [B, L]
            is_label = (ids.unsqueeze(2) == self.tokens) & is_word.unsqueeze(2)  # [B, L, V]
            has = is_label.any(dim=1).float()
            both = self.read(_SHARPNESS * torch.cat([text, video]).float())
            parts = F.binary_cross_entropy_with_logits(both, has.repeat(2, 1), reduction="none")
            return parts.sum(dim=1).mean()
