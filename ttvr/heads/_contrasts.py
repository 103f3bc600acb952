"""What TC-MGC compares: sentence and words with the frames pooled for each of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ttvr.heads._layers import unit
from ttvr.heads._low_rank import Basis, combinations
from ttvr.heads._text_pooling import Frames, Pooling, pool


class Texts(NamedTuple):
    """Prepared texts: of each the sentence, then L words; unit vectors if the head normalizes.

    Attributes:
        query: [Nt, 1+L, D] what asks for frames.
        to_video: [Nt, 1+L, D], to meet frames pooled for the sentence: sentence G, words.
        to_frames: [Nt, 1+L, D], to meet frames pooled for words: sentence, words L.
        mask: [Nt, L] bool, True = real.
    """

    query: Tensor
    to_video: Tensor
    to_frames: Tensor
    mask: Tensor


class Contrasts(NamedTuple):
    """Inner products of pairs with what was pooled for them.

    Attributes:
        to_video: [1+L, Nv, Nt], of sentence G and words with frames pooled for the sentence.
        to_frames: [Nv, Nt, 1+L, L], of sentence and words L with frames pooled for each word.
    """

    to_video: Tensor
    to_frames: Tensor


def contrasts(
    layers: Pooling, text: Texts, video: Frames | Basis, *, masked: bool, as_units: bool
) -> Contrasts:
    """Inner products of Nt texts and Nv videos, by pooled vectors or, the same, without them.

    Args:
        layers: of the pooling.
        text: prepared texts.
        video: prepared videos of either kind.
        masked: whether padded frames are left out.
        as_units: whether pooled vectors are made unit vectors.
    """
    if isinstance(video, Frames):
        return _by_pooled(layers, text, video, masked=masked, as_units=as_units)
    Nt, Q, D = text.query.shape
    queries = text.query.reshape(-1, D)
    shares = combinations(layers, video, queries, masked=masked, unit=as_units)
    shares = shares.unflatten(2, (Nt, Q))  # [Nv, N+2, Nt, 1+L]
    pooled = shares[..., 0].mT @ video.rows  # [Nv, Nt, D]
    to_video = text.to_video @ pooled.permute(1, 2, 0)  # [Nt, 1+L, Nv]
    products = video.rows.flatten(0, 1) @ text.to_frames.reshape(-1, D).T
    products, shares = (
        x.transpose(1, 2).flatten(0, 1) for x in (products.view(shares.shape), shares[..., 1:])
    )  # [Nv*Nt, N+2, ...]
    to_frames = products.mT @ shares
    return Contrasts(to_video.permute(1, 2, 0), to_frames.unflatten(0, (len(video.rows), Nt)))


def _by_pooled(
    layers: Pooling, text: Texts, video: Frames, *, masked: bool, as_units: bool
) -> Contrasts:
    z = pool(layers, text.query.flatten(0, 1), video, masked=masked)
    z = (unit(z) if as_units else z).unflatten(1, text.query.shape[:2])  # [Nv, Nt, 1+L, D]
    to_video = torch.einsum("vtd,tid->ivt", z[:, :, 0], text.to_video)
    return Contrasts(to_video, torch.einsum("vtid,tjd->vtji", z[:, :, 1:], text.to_frames))
