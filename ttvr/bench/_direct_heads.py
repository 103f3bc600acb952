"""Scores of all pairs as the authors of heads evaluate them: the baseline of `ttvr-bench`.

Each pair gets its pooled vectors, in full width. Masks are not read, as published.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ttvr.heads.tc_mgc import TcMgc
from ttvr.heads.xpool import XPool
from ttvr.records import TextFeatures, VideoFeatures


def xpool(text: TextFeatures, video: VideoFeatures, head: XPool) -> Tensor:
    """Cosines of X-Pool with one head, all videos pooled for all texts at once.

    Args:
        text: Nt texts.
        video: Nv videos.
        head: in evaluation mode, whose weights are taken.

    Returns:
        [Nt, Nv].
    """
    maps = head.cross_attn
    sentences = head.layer_norm1(text.sentence)
    frames = head.layer_norm1(video.frames)
    queries = maps["q_proj"](sentences)
    pooled = _attend(queries, maps["k_proj"](frames), maps["v_proj"](frames))
    pooled = _finish(maps["out_proj"](pooled), head)
    pooled = pooled / pooled.norm(dim=-1, keepdim=True)
    sentences = text.sentence / text.sentence.norm(dim=-1, keepdim=True)
    # One product per text, [Nv, D] by [D], as theirs.
    return (pooled.transpose(0, 1) @ sentences.unsqueeze(2)).squeeze(2)


def tc_mgc(
    text: TextFeatures, video: VideoFeatures, head: TcMgc, *, scale: float, block: int = 32
) -> Tensor:
    """Logits of TC-MGC with one head, in blocks of texts and videos.

    Of each block the videos go through the temporal step, and frames are pooled twice: the
    published code calls the module and drops what it gives (GFLOPs of the paper's table 14 agree).

    Args:
        text: Nt texts of L words.
        video: Nv videos.
        head: in evaluation mode, whose weights are taken.
        scale: exp of the logit scale.
        block: texts, and videos, of a block.

    Returns:
        [Nt, Nv].
    """
    rows = []
    for t in range(0, len(text.sentence), block):
        sentences, words = text.sentence[t : t + block], text.words[t : t + block]
        row = []
        for v in range(0, len(video.frames), block):
            some = video.frames[v : v + block], video.mask[v : v + block]
            frames = head.temporal_step(*some)
            for _ in range(2):
                by_sentence = _pool(sentences, frames, head)  # [Nv, Nt, D]
                by_word = _pool(words.flatten(0, 1), frames, head)  # [Nv, Nt*L, D]
            by_word = by_word.unflatten(1, words.shape[:2])
            row.append(_tc_mgc_logits(sentences, words, by_sentence, by_word, head, scale))
        rows.append(torch.cat(row, dim=1))
    return torch.cat(rows)


def _attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Queries [Q, D], keys and values [Nv, T, D] -> [Nv, Q, D], one head."""
    logits = keys @ queries.T / queries.shape[-1] ** 0.5  # [Nv, T, Q]
    return values.transpose(1, 2).matmul(logits.softmax(dim=1)).transpose(1, 2)


def _finish(x: Tensor, layers: nn.Module) -> Tensor:
    """Norm, linear map with what it is given added, norm."""
    x = layers.layer_norm2(x)
    return layers.layer_norm3(x + layers.linear_proj(x))


def _pool(texts: Tensor, frames: Tensor, head: TcMgc) -> Tensor:
    layers = head.pool_frames
    frames = layers.layer_norm1(frames)
    return _finish(_attend(layers.layer_norm1(texts), frames, frames), layers)


def _tc_mgc_logits(
    sentences: Tensor,
    words: Tensor,
    by_sentence: Tensor,
    by_word: Tensor,
    head: TcMgc,
    scale: float,
) -> Tensor:
    """Logits [Nt, Nv] by pooled frames [Nv, Nt, D] and [Nv, Nt, L, D]."""
    s, w, c, f = (
        x / x.norm(dim=-1, keepdim=True)
        for x in (sentences, words, by_sentence.transpose(0, 1), by_word.permute(1, 2, 0, 3))
    )
    k, rest = head.k, w.shape[1] - head.k
    vs = torch.einsum("td,tvd->tv", s @ head.global_mat_weight, c)
    vw = torch.einsum("tid,tvd->tvi", w, c).topk(k).values
    sf = torch.einsum("td,tivd->tvi", s, f)
    low = sf.topk(rest, largest=False).values
    fused = (low.softmax(dim=-1) * low).sum(dim=-1, keepdim=True)
    sf = torch.cat([sf.topk(k).values, fused], dim=-1)
    fw = torch.einsum("tivd,tjd->tvij", f, w @ head.local_mat_weight)
    fw = fw.topk(k, dim=3).values.topk(k, dim=2).values  # [Nt, Nv, k frames, k words]

    def aggregate(x: Tensor, matrix: Tensor) -> Tensor:
        weights = (head.softmax_lambda * x).softmax(dim=-1) @ matrix
        return (x * (head.softmax_lambda * weights).softmax(dim=-1)).sum(dim=-1)

    by_words = aggregate(fw.transpose(2, 3), head.attentive_frame_word_mat_weight)
    by_frames = aggregate(fw, head.attentive_word_mat_weight)
    four = (
        vs,
        aggregate(vw, head.attentive_word_logit_weight),
        aggregate(sf, head.concat_frame_word_logit_weight),
        aggregate(by_words, head.attentive_word_mat_weight2) / 2
        + aggregate(by_frames, head.attentive_frame_word_mat_weight2) / 2,
    )
    four = scale * torch.stack(four, dim=-1)
    return ((four @ head.logit_weight).softmax(dim=-1) * four).sum(dim=-1)
