"""TC-MGC: sentence and words against frames pooled for each of them, at four granularities.

Jing et al., "TC-MGC: Text-Conditioned Multi-Grained Contrastive Learning for Text-Video Retrieval"
(2025).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ttvr.errors import IncompatibleError, UsageError
from ttvr.heads._base import FrameWeights, without_autocast
from ttvr.heads._contrasts import Contrasts, Texts, contrasts
from ttvr.heads._layers import SHARPNESS, draw_as_authors, unit
from ttvr.heads._low_rank import Basis, basis_of, in_blocks
from ttvr.heads._reorganize import Kept, decorrelation, interactive, reorganized
from ttvr.heads._temporal import LAYERS, POSITIONS, TemporalHead
from ttvr.heads._text_pooling import (
    Frames,
    Pooling,
    add_layers,
    attention_maps,
    empty_padding,
    frames_of,
    layers_of,
    mean_attention,
    queries_of,
)
from ttvr.losses import info_nce
from ttvr.records import TextFeatures, VideoFeatures

GRANULARITIES = 4  # video-sentence, video-word, sentence-frame, frame-word
_TEXTS = 16  # scored at once


class TcMgc(TemporalHead):
    """The published code, where it and the paper differ; options lead back to printed equations.

    Each sentence and each word attends to the frames after the temporal step (as in X-Pool, with
    no maps but the residual branch). Of the L similarities of words, and of the L x L of words
    with frames pooled for words, the k largest are kept; few numbers then become one. A score is
    the sum of four similarities weighted by a softmax of themselves, all times the logit scale.

    In evaluation mode scores are those of `_low_rank`, the same numbers without pooled vectors; in
    training, with dropout, each pair of a word and a video has its pooled vector.

    Departures: k is 1 at least, where int(L keep_rate) may be 0 in the code and nothing is left;
    if all words are kept, there is no number for the rest of them, where the code has a 0.
    Without `scaled` the four similarities meet before the scale, and `factors` still says the
    scale. As printed the head is `layers=3, residual=False, projections=True, normalize=False,
    bilinear=False, softmax_lambda=1, scaled=False, mean=False, dropout=0`.

    Args:
        width: D of the features.
        frames: T of a video.
        words: L of a text.
        keep_rate: r of the paper, k = int(L r).
        keep: k itself, which a checkpoint tells; None: by `keep_rate`.
        softmax_lambda: sharpness of both softmaxes of the aggregation; Table 13 of the paper, not
            its equation 33, tells what the number is. 1 is equations 18, 20 and 22 as printed.
        alpha: weight of the decorrelation loss.
        dropout: of the residual branch; not in the paper.
        heads: of the attention to frames.
        layers: of the temporal transformer; four as in the code, where the text says three.
        temporal: the step before: "seq_transf", "seq_lstm" or "none".
        temporal_heads: of its attention; None: width // 64.
        positions: rows of its table of positions.
        residual: of the temporal step; equation 1 has none around it.
        mask: leave padded frames and words out. As published they count like any others but in
            the temporal step. With padded words the leading ranks alone are used.
        projections: the maps W_Q, W_K, W_V and W_O of the paper, without bias, the identity at
            first; the code declares and does not use them.
        normalize: take cosines; equations 12 to 15 have inner products.
        bilinear: the learned maps G and L between sentence and video, and between words and frames,
            the identity at first; the code has them from X-CLIP, equations 12 to 15 do not.
        scaled: fuse, and decorrelate, similarities times the logit scale; equations 31 and 34 take
            them as they are.
        mean: of the two directions' losses; equation 35 has their sum.
    """

    needs_words: ClassVar[bool] = True
    OFFICIAL_UNUSED: ClassVar[tuple[str, ...]] = ("pool_frames.cross_attn.*",)

    def __init__(
        self,
        *,
        width: int = 512,
        frames: int = 12,
        words: int = 32,
        keep_rate: float = 0.1,
        keep: int | None = None,
        softmax_lambda: float = SHARPNESS,
        alpha: float = 0.5,
        dropout: float = 0.3,
        heads: int = 1,
        layers: int = LAYERS,
        temporal: str = "seq_transf",
        temporal_heads: int | None = None,
        positions: int = POSITIONS,
        residual: bool = True,
        mask: bool = False,
        projections: bool = False,
        normalize: bool = True,
        bilinear: bool = True,
        scaled: bool = True,
        mean: bool = True,
    ) -> None:
        super().__init__(
            width=width,
            frames=frames,
            words=words,
            temporal=temporal,
            layers=layers,
            heads=temporal_heads,
            positions=positions,
            residual=residual,
        )
        if not 0 < keep_rate <= 1:
            raise UsageError(f"keep_rate is above 0 and at most 1, got {keep_rate}")
        self.k = max(1, int(words * keep_rate)) if keep is None else keep
        if not 1 <= self.k <= words:
            raise UsageError(f"keep is at least 1 and at most the {words} words, got {keep}")
        self.softmax_lambda, self.alpha = softmax_lambda, alpha
        self.heads, self.mask = heads, mask
        self.normalize, self.bilinear, self.scaled, self.mean = normalize, bilinear, scaled, mean
        self.lva_projections = attention_maps(width, bias=False) if projections else None
        self.pool_frames = nn.Module()
        add_layers(self.pool_frames, width, dropout)
        draw_as_authors(self.pool_frames)
        layers_of(self.pool_frames, self.lva_projections, heads)
        for name, size in self._matrices().items():
            self.register_parameter(name, nn.Parameter(torch.eye(size)))

    @property
    def layers(self) -> Pooling:
        """Of the attention to frames, the same for sentences and words."""
        return layers_of(self.pool_frames, self.lva_projections, self.heads)

    def prepare_text(self, text: TextFeatures) -> Texts:
        """Queries of sentence and words, and what meets the frames pooled for them.

        Raises:
            IncompatibleError: texts are too short to keep k words.
        """
        if text.words.shape[1] < self.k:
            raise IncompatibleError(
                f"TC-MGC keeps {self.k} words of a text, got texts of {text.words.shape[1]}"
            )
        words = empty_padding(text.words, text.mask) if self.mask else text.words
        sentence = text.sentence.unsqueeze(1)
        query = queries_of(self.layers, torch.cat([sentence, words], dim=1))
        if self.normalize:
            sentence, words = unit(sentence), unit(words)
        whole, each = sentence, words
        if self.bilinear:
            whole, each = sentence @ self.global_mat_weight, words @ self.local_mat_weight
        to_video, to_frames = torch.cat([whole, words], dim=1), torch.cat([sentence, each], dim=1)
        return Texts(query, to_video, to_frames, text.mask)

    def prepare_video(self, video: VideoFeatures) -> Frames | Basis:
        """Keys and values in training; what pooled vectors are made of in evaluation.

        Raises:
            TtvrError: a video without a real frame.
        """
        x = self._frames(video)
        return (frames_of if self.training else basis_of)(self.layers, x, video.mask)

    def similarities(self, text: Texts, video: Frames | Basis) -> Tensor:
        """Video-sentence, video-word, sentence-frame and frame-word, [4, Nt, Nv]."""
        if isinstance(video, Frames):
            return self._score(text, video)
        N, L = video.forms.shape[2], text.mask.shape[1]
        return in_blocks(self._score, text, video, texts=_TEXTS, floats=(1 + L) * (5 * N + L))

    def fuse(self, sims: Tensor, scale: Tensor) -> Tensor:
        """Learned aggregation (LSA): sims [4, Nt, Nv], weighted by softmax(sims M), are added."""
        sims = scale * sims if self.scaled else sims
        fused = (self.granularity_weights(sims) * sims).sum(dim=0)
        return fused if self.scaled else scale * fused

    def granularity_weights(self, sims: Tensor) -> Tensor:
        """How much each granularity counts, [4, ...], by similarities [4, ...] as `fuse` takes."""
        return (self.logit_weight.T @ sims.flatten(1)).view(sims.shape).softmax(dim=0)

    def losses(self, text: TextFeatures, video: VideoFeatures, scale: Tensor) -> dict[str, Tensor]:
        """Contrast, and alpha times the decorrelation of the granularities of matched pairs."""
        with without_autocast(scale.device):
            sims = self.similarities(self.prepare_text(text), self.prepare_video(video))
            nce = info_nce(self.fuse(sims, scale))
            sdr = decorrelation(scale * sims if self.scaled else sims)
            return {"nce": nce if self.mean else 2 * nce, "sdr": self.alpha * sdr}

    def frame_weights(self, text: TextFeatures, video: VideoFeatures) -> FrameWeights:
        """Attention of the sentence and of each word to frames (figure 11); heads are averaged."""
        with without_autocast(video.frames.device):
            frames = frames_of(self.layers, self._frames(video), video.mask)
            queries = self.prepare_text(text).query
            weights = mean_attention(self.layers, queries, frames, masked=self.mask)
        sentence, words = weights[:, 0], weights[:, 1:].transpose(1, 2)
        return FrameWeights(sentence, words, "attention of the sentence and of each word")

    def pair_floats(self) -> int:
        """The four scores in evaluation, where pairs are cut into blocks here; else all pooled."""
        return (1 + self.words) * 6 * self.width if self.training else 2 * GRANULARITIES

    @classmethod
    def official_options(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """The temporal step, the width, and how many words are kept."""
        width, keep = "pool_frames.linear_proj.weight", "attentive_word_logit_weight"
        sizes = {"width": width, "keep": keep}
        told = {option: len(state[name]) for option, name in sizes.items() if name in state}
        return {**told, **super().official_options(state)}

    def contrasts(self, text: Texts, video: Frames | Basis) -> Contrasts:
        """Inner products of texts and videos, in either form."""
        return contrasts(self.layers, text, video, masked=self.mask, as_units=self.normalize)

    def _score(self, text: Texts, video: Frames | Basis) -> Tensor:
        """Similarities [4, Nt, Nv] of pairs together."""
        if self.mask:
            # Padding stands at the end: what no text of these has need not be computed.
            longest = max([self.k, *text.mask.sum(dim=1).tolist()])
            text = Texts(*(x[:, : longest + 1] for x in text[:3]), text.mask[:, :longest])
        compared = self.contrasts(text, video)
        kept = reorganized(compared, self.k, text.mask if self.mask else None)
        return torch.stack([compared.to_video[0], *self._aggregated(kept, text.mask)]).mT

    def _aggregated(self, kept: Kept, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Interactive aggregation (ISA) of what was kept, each [Nv, Nt]; mask [Nt, L] bool."""
        vw, sf, fw = kept
        real = None
        if self.mask:
            place = torch.arange(len(sf), device=mask.device)
            real = place[:, None, None] < mask.sum(dim=1)  # [k+1, 1, Nt], by rank
        aggregate = partial(interactive, sharpness=self.softmax_lambda)
        rows = None if real is None else real[: self.k]
        first = aggregate(
            torch.stack([fw, fw.transpose(0, 1)]),
            torch.stack([self.attentive_frame_word_mat_weight, self.attentive_word_mat_weight]),
            real=None if rows is None else rows.unsqueeze(1),
        )  # [2, k, Nv, Nt]: of each word rank over frames, of each frame rank over words
        second = (self.attentive_word_mat_weight2, self.attentive_frame_word_mat_weight2)
        matrices = torch.stack([*second, self.attentive_word_logit_weight])
        by_word, by_frame, video_word = aggregate(
            torch.cat([first, vw.unsqueeze(0)]), matrices, real=rows
        )
        last = self.concat_frame_word_logit_weight.unsqueeze(0)
        sentence_frame = aggregate(sf.unsqueeze(0), last, real=real)[0]
        return video_word, sentence_frame, (by_word + by_frame) / 2

    def _frames(self, video: VideoFeatures) -> Tensor:
        """Frames [Nv, T, D] after the temporal step, as they are attended to."""
        x = self.temporal_frames(video)
        return empty_padding(x, video.mask) if self.mask else x

    def _matrices(self) -> dict[str, int]:
        """Sizes of the square matrices that start as the identity, by the authors' names."""
        forms = {"global_mat_weight": self.width, "local_mat_weight": self.width}
        return {
            **(forms if self.bilinear else {}),
            "attentive_word_logit_weight": self.k,
            "concat_frame_word_logit_weight": self.k + 1,
            "attentive_word_mat_weight": self.k,
            "attentive_word_mat_weight2": self.k,
            "attentive_frame_word_mat_weight": self.k,
            "attentive_frame_word_mat_weight2": self.k,
            "logit_weight": GRANULARITIES,
        }


PLUGIN = TcMgc
