"""X-Pool: the frames of a video are pooled anew for each text, by attention.

Gorti et al., "X-Pool: Cross-Modal Language-Video Attention for Text-Video Retrieval" (2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ttvr.errors import UsageError
from ttvr.heads._base import FrameWeights, Head, without_autocast
from ttvr.heads._layers import require_frames, unit
from ttvr.heads._low_rank import Basis, basis_of, combinations, in_blocks
from ttvr.heads._text_pooling import (
    Frames,
    Pooling,
    add_layers,
    attention_maps,
    empty_padding,
    frames_of,
    layers_of,
    mean_attention,
    pool,
    queries_of,
    start_as_identity,
)
from ttvr.records import TextFeatures, VideoFeatures

POOLINGS = ("transformer", "avg", "topk", "attention")
_TEXTS = 256  # scored at once


class Texts(NamedTuple):
    """Prepared texts.

    Attributes:
        sentence: [Nt, D] unit vectors.
        query: [Nt, D] what asks for frames; the same where no transformer pools.
    """

    sentence: Tensor
    query: Tensor


class UnitFrames(NamedTuple):
    """Prepared videos of the poolings without parameters.

    Attributes:
        frames: [Nv, T, D] unit vectors.
        gram: [Nv, T, T] their inner products.
        mask: [Nv, T] bool, True = real.
    """

    frames: Tensor
    gram: Tensor
    mask: Tensor


class XPool(Head):
    """Cosine of the sentence and of what a transformer with the sentence as query makes of frames.

    In evaluation mode scores are those of `_low_rank`, the same numbers without pooled vectors; in
    training, with dropout, each pair has its pooled vector. `fuse` multiplies by the logit scale,
    which the authors' evaluation leaves out.

    Args:
        width: D of the features.
        frames: T of a video.
        words: L of a text; not read.
        pooling: "transformer", or one of the authors' baselines on unit frames: "avg", the mean;
            "topk", the sum of the k frames most similar to the sentence; "attention", a sum
            weighted by a softmax of similarities.
        heads: of the transformer's attention.
        dropout: of the transformer's residual branch.
        mask: leave padded frames out. As published they count like any other.
        k: of topk, at most `frames`.
        temperature: of the softmax of attention.
    """

    OFFICIAL_WRAPPERS: ClassVar[tuple[str, ...]] = ("module.", "pool_frames.")

    def __init__(
        self,
        *,
        width: int = 512,
        frames: int = 12,
        words: int = 32,
        pooling: str = "transformer",
        heads: int = 1,
        dropout: float = 0.3,
        mask: bool = False,
        k: int = 3,
        temperature: float = 0.01,
    ) -> None:
        super().__init__(width=width, frames=frames, words=words)
        if pooling not in POOLINGS:
            raise UsageError(f"pooling is one of {', '.join(POOLINGS)}, got {pooling!r}")
        if pooling == "topk" and not 1 <= k <= frames:
            raise UsageError(f"k is at least 1 and at most the {frames} frames, got {k}")
        if temperature <= 0:
            raise UsageError(f"temperature is above 0, got {temperature}")
        self.pooling, self.heads, self.mask = pooling, heads, mask
        self.k, self.temperature = k, temperature
        if pooling == "transformer":
            self.cross_attn = attention_maps(width, bias=True)
            add_layers(self, width, dropout)
            start_as_identity(self.linear_proj)
            layers_of(self, self.cross_attn, heads)

    @property
    def layers(self) -> Pooling:
        """Of the transformer."""
        return layers_of(self, self.cross_attn, self.heads)

    def prepare_text(self, text: TextFeatures) -> Texts:
        """Unit sentences, and queries made of the sentences as they are."""
        sentence = unit(text.sentence)
        if self.pooling != "transformer":
            return Texts(sentence, sentence)
        return Texts(sentence, queries_of(self.layers, text.sentence))

    def prepare_video(self, video: VideoFeatures) -> Frames | Basis | UnitFrames:
        """Keys and values in training; what pooled vectors are made of in evaluation.

        Raises:
            TtvrError: a video without a real frame.
        """
        x = self._frames(video)
        if self.pooling != "transformer":
            x = unit(x)
            return UnitFrames(x, x @ x.mT, video.mask)
        prepare = frames_of if self.training else basis_of
        return prepare(self.layers, x, video.mask)

    def similarities(self, text: Texts, video: Frames | Basis | UnitFrames) -> Tensor:
        """Cosines [1, Nt, Nv]."""
        if isinstance(video, Frames):
            pooled = unit(pool(self.layers, text.query, video, masked=self.mask))
            return torch.einsum("vtd,td->tv", pooled, text.sentence).unsqueeze(0)
        score = self._by_basis if isinstance(video, Basis) else self._by_gram
        N = video.forms.shape[2] if isinstance(video, Basis) else video.frames.shape[1]
        return in_blocks(score, text, video, texts=_TEXTS, floats=9 * N)

    def frame_weights(self, text: TextFeatures, video: VideoFeatures) -> FrameWeights:
        """What each sentence attends to, or takes, of each video; heads are averaged."""
        with without_autocast(video.frames.device):
            x, texts = self._frames(video), self.prepare_text(text)
            if self.pooling == "transformer":
                frames = frames_of(self.layers, x, video.mask)
                weights = mean_attention(self.layers, texts.query, frames, masked=self.mask)
                return FrameWeights(weights, None, "attention of the sentence")
            sims = unit(x) @ texts.sentence.T
            weights = self._weights(sims, video.mask).permute(2, 0, 1)
            return FrameWeights(weights, None, f"share of frames, {self.pooling}")

    def pair_floats(self) -> int:
        """One score in evaluation, where pairs are cut into blocks here; else pooled vectors."""
        if self.training and self.pooling == "transformer":
            return 5 * self.width
        return 2

    @classmethod
    def official_options(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """The width."""
        weight = state.get("linear_proj.weight")
        return {} if weight is None else {"width": weight.shape[1]}

    def _frames(self, video: VideoFeatures) -> Tensor:
        """Frames [Nv, T, D] as they are pooled."""
        require_frames(video.mask)
        return empty_padding(video.frames, video.mask) if self.mask else video.frames

    def _by_basis(self, text: Texts, video: Basis) -> Tensor:
        """Cosines [1, Nt, Nv] by inner products with what pooled vectors are made of."""
        shares = combinations(self.layers, video, text.query, masked=self.mask, unit=True)
        Nv, R, _ = shares.shape
        products = (video.rows.flatten(0, 1) @ text.sentence.T).view(Nv, R, len(text.sentence))
        return (shares * products).sum(dim=1).T.unsqueeze(0)

    def _by_gram(self, text: Texts, video: UnitFrames) -> Tensor:
        """Cosines [1, Nt, Nv]: a weighted sum of similarities over the length of that of frames."""
        Nv, T, D = video.frames.shape
        sims = (video.frames.view(Nv * T, D) @ text.sentence.T).view(Nv, T, len(text.sentence))
        weights = self._weights(sims, video.mask)
        length = (weights * (video.gram @ weights)).sum(dim=1).sqrt()
        return ((weights * sims).sum(dim=1) / length).T.unsqueeze(0)

    def _weights(self, sims: Tensor, mask: Tensor) -> Tensor:
        """How each frame counts, [Nv, T, Nt], by similarities of that shape."""
        real = (mask if self.mask else torch.ones_like(mask)).unsqueeze(-1)
        if self.pooling == "avg":
            return (real / real.sum(dim=1, keepdim=True)).to(sims.dtype).expand_as(sims)
        sims = sims.masked_fill(~real, -torch.inf)
        if self.pooling == "attention":
            return (sims / self.temperature).softmax(dim=1)
        best = sims.argsort(dim=1, descending=True, stable=True)[:, : self.k]
        return torch.zeros_like(sims).scatter(1, best, 1.0) * real


PLUGIN = XPool
