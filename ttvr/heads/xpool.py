"""X-Pool: each text pools the frames it asks for, and is compared with what it gets.

Gorti et al., "X-Pool: Cross-Modal Language-Video Attention for Text-Video Retrieval" (CVPR 2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ttvr.errors import UsageError
from ttvr.heads._base import FrameWeights, Head, without_autocast
from ttvr.heads._layers import require_frames, unit
from ttvr.heads._pool import Basis, FramePool
from ttvr.records import TextFeatures, VideoFeatures

POOLINGS = ("block", "avg", "topk", "attention")
_POOL = "pool_frames."


class Query(NamedTuple):
    """Of texts: unit sentences [Nt, D], and as they ask frames, scaled [Nt, D]."""

    sentence: Tensor
    query: Tensor


class Frames(NamedTuple):
    """Of videos, in training and where the pooling has no block: [Nv, T, D] and [Nv, T] bool."""

    frames: Tensor
    mask: Tensor


class XPool(Head):
    """Cosine of the sentence and of the frames as pooled for it.

    Published are the block and, to compare it with, three poolings without parameters of unit
    frames: their mean ("avg"), the sum of the `top` nearest to the text ("topk"), and their sum
    weighted by softmax(similarity / `temperature`) ("attention").

    In evaluation scores are computed by the exact low-rank form of `FramePool`; in training by the
    direct one, which dropout takes.

    Args:
        width: D of the features.
        frames: T of a video; any number is taken.
        words: L of a text; not read.
        heads: of the attention.
        dropout: of the linear map, in training.
        pooling: a name of `POOLINGS`.
        top: frames of "topk".
        temperature: of "attention".
        mask: leave padded frames out. The authors' code attends to them.
    """

    OFFICIAL_WRAPPERS = ("module.", _POOL)

    def __init__(
        self,
        *,
        width: int = 512,
        frames: int = 12,
        words: int = 32,
        heads: int = 1,
        dropout: float = 0.3,
        pooling: str = "block",
        top: int = 3,
        temperature: float = 0.01,
        mask: bool = False,
    ) -> None:
        super().__init__(width=width, frames=frames, words=words)
        if pooling not in POOLINGS:
            raise UsageError(f"pooling is one of {', '.join(POOLINGS)}, got {pooling!r}")
        if not 1 <= top <= frames:
            raise UsageError(f"top is 1 to the number of frames, {frames}, got {top}")
        if not temperature > 0:
            raise UsageError(f"temperature is above 0, got {temperature}")
        self.pooling, self.top, self.temperature, self.mask = pooling, top, temperature, mask
        if pooling == "block":
            self.pool_frames = FramePool(width, heads=heads, dropout=dropout, projections="biased")

    def prepare_text(self, text: TextFeatures) -> Query:
        """Unit sentences, and their queries."""
        sentence = unit(text.sentence)
        if self.pooling != "block":
            return Query(sentence, sentence)
        return Query(sentence, self.pool_frames.queries(text.sentence.to(sentence.dtype)))

    def prepare_video(self, video: VideoFeatures) -> Frames | Basis:
        """Frames as they are in training, else the basis of their pooled vectors."""
        require_frames(video.mask)
        mask = video.mask if self.mask else torch.ones_like(video.mask)
        # What is left out is filled: NaN or infinity times a weight of zero is NaN.
        frames = video.frames.masked_fill(~mask.unsqueeze(-1), 1.0)
        if self.pooling != "block":
            return Frames(unit(frames), mask)
        return Frames(frames, mask) if self.training else self.pool_frames.basis(frames, mask)

    def similarities(self, text: Query, video: Frames | Basis) -> Tensor:
        """Cosines [1, Nt, Nv]."""
        if self.pooling != "block":
            return torch.einsum("td,vtd->tv", text.sentence, self._pooled(text, video))[None]
        if isinstance(video, Frames):
            pooled = unit(self.pool_frames.direct(text.query, *video))  # [Nv, Nt, D]
            return torch.einsum("td,vtd->tv", text.sentence, pooled)[None]
        V, rows, _ = video.rows.shape
        along = (video.rows.flatten(0, 1) @ text.sentence.T).view(V, rows, -1)
        coefficients = self.pool_frames.coefficients(video, text.query)
        return (along * coefficients).sum(dim=1).T[None]

    def _pooled(self, text: Query, video: Frames) -> Tensor:
        """Unit vectors [Nv, Nt, D] of the poolings without parameters."""
        scores = torch.einsum("td,vnd->vtn", text.sentence, video.frames)
        scores = scores.masked_fill(~video.mask[:, None], -torch.inf)
        if self.pooling == "avg":
            weights = video.mask[:, None].expand_as(scores).to(scores.dtype)
        elif self.pooling == "topk":
            chosen = scores.topk(self.top, dim=-1).indices
            weights = torch.zeros_like(scores).scatter_(-1, chosen, 1.0) * video.mask[:, None]
        else:
            weights = (scores / self.temperature).softmax(dim=-1)
        return unit(weights @ video.frames)

    def pair_floats(self) -> int:
        """As the low-rank form; the other poolings hold pooled vectors."""
        if self.pooling != "block":
            return 3 * self.width
        return self.pool_frames.pair_floats(self.frames) + 2 * self.frames

    def frame_weights(self, text: TextFeatures, video: VideoFeatures) -> FrameWeights:
        """The attention of each sentence, the mean over heads."""
        if self.pooling != "block":
            return super().frame_weights(text, video)
        with without_autocast(video.frames.device):
            mask = video.mask if self.mask else torch.ones_like(video.mask)
            queries = self.prepare_text(text).query
            weights = self.pool_frames.weights(queries, video.frames, mask).mean(dim=1)
        return FrameWeights(weights.transpose(0, 1), None, "attention of the sentence")

    @classmethod
    def official_tensors(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Under one module, whether the checkpoint is of the whole system or of the block."""
        own = super().official_tensors(state)
        return {_POOL + name: tensor for name, tensor in own.items()}

    @classmethod
    def official_options(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """The width."""
        table = state.get(f"{_POOL}linear_proj.weight")
        return {} if table is None else {"width": len(table)}


PLUGIN = XPool
