"""X-CLIP and UCoFiA as their equations read: every pair at once, texts first, frames last.

This is how their authors evaluate a block of texts against a block of videos, what depends on one
side alone included. The heads are measured against it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ttvr.heads.ucofia import UCoFiA
from ttvr.heads.xclip import XCLIP
from ttvr.records import TextFeatures, VideoFeatures

_TEMPERATURE = 0.01


def xclip(head: XCLIP, text: TextFeatures, video: VideoFeatures, scale: Tensor) -> Tensor:
    """Logits [Nt, Nv] of X-CLIP without masks, as `XCLIP` gives them."""
    sentence, words, frames = _unit(text.sentence), _unit(text.words), _unit(video.frames)
    vector = head.vector_video(video)
    video_sentence = (sentence @ head.global_mat_weight) @ vector.T
    video_word = _aggregate(
        torch.einsum("tld,vd->tvl", words, vector), head.word_logit_weight, twice=False
    )
    sentence_frame = _aggregate(
        torch.einsum("td,vnd->tvn", sentence, frames), head.frame_logit_weight, twice=False
    )
    pairs = torch.einsum("tld,vnd->tvln", words @ head.local_mat_weight, frames)
    frame_word = _aggregate_both_orders(
        pairs,
        (head.word_mat_weight, head.word_mat_weight2),
        (head.frame_mat_weight, head.frame_mat_weight2),
        twice=False,
    )
    return scale * (video_sentence + video_word + sentence_frame + frame_word) / 4


def ucofia(head: UCoFiA, text: TextFeatures, video: VideoFeatures, scale: Tensor) -> Tensor:
    """Logits [Nt, Nv] of UCoFiA with words and without masks, as `UCoFiA` gives them."""
    sentence, words, frames = _unit(text.sentence), _unit(text.words), _unit(video.frames)
    vector = head.vector_video(video)
    video_sentence = (sentence @ head.global_mat_weight) @ (vector @ head.global_mat_weight_1).T
    sentence_frame = _aggregate(
        torch.einsum("td,vnd->tvn", sentence, frames), head.frame_logit_weight, twice=True
    )
    tokens = head.visual_tokens(video) @ head.local_mat_weight1
    pairs = torch.einsum("tld,vnd->tvln", words @ head.local_mat_weight, tokens)
    patch_word = _aggregate_both_orders(
        pairs,
        (head.word_mat_weight, head.word_mat_weight2),
        (head.pixel_mat_weight, head.pixel_mat_weight2),
        twice=True,
    )
    return (scale * (video_sentence + sentence_frame) + patch_word) / 3


def _aggregate_both_orders(
    pairs: Tensor, words: tuple[Tensor, Tensor], tokens: tuple[Tensor, Tensor], *, twice: bool
) -> Tensor:
    """Similarities [Nt, Nv, L, N] of words and visual tokens -> [Nt, Nv]."""
    per_token = _aggregate(pairs.transpose(2, 3), words[0], twice=twice)
    per_word = _aggregate(pairs, tokens[0], twice=twice)
    over_tokens = _aggregate(per_token, tokens[1], twice=twice)
    over_words = _aggregate(per_word, words[1], twice=twice)
    return (over_tokens + over_words) / 2


def _aggregate(x: Tensor, matrix: Tensor, *, twice: bool) -> Tensor:
    """The sum over the last dimension of x, weighted by softmax(x / temperature) @ matrix."""
    weights = torch.softmax(x / _TEMPERATURE, dim=-1) @ matrix
    if twice:
        weights = torch.softmax(weights / _TEMPERATURE, dim=-1)
    return (weights * x).sum(dim=-1)


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)
