"""DRL's channel decorrelation: channels of texts and videos agree, each with its own one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ttvr.errors import TtvrError


class Pairs(NamedTuple):
    """Vectors that belong together, one of a text and one of a video.

    Attributes:
        one: [N, D], all of the same side.
        other: [N, D], of the other side.
        weight: [N], how much each pair counts.
    """

    one: Tensor
    other: Tensor
    weight: Tensor


def cdcr_loss(groups: Sequence[Pairs], *, alpha1: float, alpha2: float) -> Tensor:
    """Channel decorrelation regularization of pairs.

    Wang et al., "Disentangled Representation Learning for Text-Video Retrieval" (2022): with each
    channel of each side brought to mean 0 and (unbiased) variance 1 over the pairs, the
    correlation of channels is C = one^T diag(weight) other, the mean of C over the groups.

    The authors' code makes C of N matrices [D, D]; here it is one product, and where alpha2 is 0
    the diagonal alone.

    Args:
        groups: each of at least two pairs.
        alpha1: of the sum over the diagonal of (C - 1) squared.
        alpha2: of the sum over all else of C squared.

    Raises:
        TtvrError: a group of one pair, which has no variance.
    """
    channels, off = [], []
    for one, other, weight in groups:
        if len(one) < 2:
            raise TtvrError("cdcr compares channels over a batch; take a batch size of at least 2")
        left, right = _standardized(one) * weight[:, None], _standardized(other)
        channels.append((left * right).sum(dim=0))
        if alpha2:
            off.append(left.T @ right)
    diagonal = torch.stack(channels).mean(dim=0)
    loss = alpha1 * (diagonal - 1).square().sum()
    if off:
        others = torch.stack(off).mean(dim=0).fill_diagonal_(0.0)
        loss = loss + alpha2 * others.square().sum()
    return loss


def best_pairs(
    words: Tensor, frames: Tensor, word_mask: Tensor, frame_mask: Tensor, *, fill: float
) -> tuple[Pairs, Pairs]:
    """Of matched texts and videos each real word with its best frame, each frame with its word.

    Args:
        words: [B, L, D] unit vectors.
        frames: [B, T, D] unit vectors.
        word_mask: [B, L] bool, True = real.
        frame_mask: [B, T] bool, True = real.
        fill: what stands in place of the cosine with padding. With 0, as the authors' code has it,
            a word that is unlike every real frame has a padded one as its best.

    Returns:
        Pairs that count the same: words with frames, and frames with words, in this order as the
        authors' code has it, so that off the diagonal C mixes both. The first best on ties.
    """
    hidden = ~(word_mask.unsqueeze(2) & frame_mask.unsqueeze(1))
    sims = (words @ frames.transpose(1, 2)).masked_fill(hidden, fill)  # [B, L, T]
    of_word, _ = word_mask.nonzero(as_tuple=True)
    of_frame, _ = frame_mask.nonzero(as_tuple=True)
    by_words = words[word_mask], frames[of_word, sims.argmax(dim=2)[word_mask]]
    by_frames = frames[frame_mask], words[of_frame, sims.argmax(dim=1)[frame_mask]]
    return uniform(*by_words), uniform(*by_frames)


def random_pairs(words: Tensor, frames: Tensor, word_mask: Tensor, frame_mask: Tensor) -> Pairs:
    """A random real word and a random real frame of each text and video, as `best_pairs`.

    The random numbers are torch's global ones.
    """
    item = torch.arange(len(words), device=words.device)
    word = torch.multinomial(word_mask.float(), 1).squeeze(1)
    frame = torch.multinomial(frame_mask.float(), 1).squeeze(1)
    return uniform(words[item, word], frames[item, frame])


def uniform(one: Tensor, other: Tensor) -> Pairs:
    """Pairs that count the same, one altogether."""
    return Pairs(one, other, one.new_full((len(one),), 1 / len(one)))


def _standardized(x: Tensor) -> Tensor:
    """Of x [N, D] each column with mean 0 and variance 1; there is no epsilon, as published."""
    return (x - x.mean(dim=0)) / x.std(dim=0)
