"""What X-CLIP and UCoFiA have in common: sentence and words against video, frames and patches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ttvr.errors import UsageError
from ttvr.heads._fine_grained import (
    Scores,
    aggregate_videos_last,
    products,
    token_first,
    weights_before_norm,
)
from ttvr.heads._layers import SHARPNESS, masked_mean_of_units, unit
from ttvr.heads._temporal import TemporalHead
from ttvr.records import TextFeatures, VideoFeatures


class Texts(NamedTuple):
    """What is prepared of Nt texts.

    Attributes:
        sentence: [Nt, D], unit.
        words: [Nt, L, D], unit; [Nt, 0, D] where no word is read.
        mask: [Nt, L] bool, True = real.
    """

    sentence: Tensor
    words: Tensor
    mask: Tensor


class Videos(NamedTuple):
    """What is prepared of Nv videos, multiplied with the bilinear forms.

    Attributes:
        for_sentence: [Nv, 1+T, D], the video's row and its frames', to be multiplied with the unit
            sentence.
        for_words: [Nv, N, D], visual tokens, to be multiplied with unit words; N = 0 without.
        mask: [Nv, T] bool, True = real.
    """

    for_sentence: Tensor
    for_words: Tensor
    mask: Tensor


class MultiGrainedHead(TemporalHead):
    """A head that aggregates similarities over frames, words and what else there is.

    Row i of a learned matrix stands for token i, so `frames` and `words` are fixed. As published,
    padded words and frames count like others; `mask` gives them no weight.

    Args:
        width: D of the features.
        frames: T of a video.
        words: L of a text.
        temporal: the step before the video vector, a name of `STEPS`.
        layers: of the transformer of seq_transf.
        heads: of its attention; None: width // 64.
        positions: rows of its table of positions.
        mask: give masked words and frames no weight.
    """

    TWICE: ClassVar[bool]
    """Whether aggregation has a second softmax."""
    needs_words: ClassVar[bool] = True
    fixed_frames: ClassVar[bool] = True

    def __init__(
        self,
        *,
        width: int,
        frames: int,
        words: int,
        temporal: str,
        layers: int,
        heads: int | None,
        positions: int,
        mask: bool,
    ) -> None:
        super().__init__(
            width=width,
            frames=frames,
            words=words,
            temporal=temporal,
            layers=layers,
            heads=heads,
            positions=positions,
        )
        self.mask = mask
        self.global_mat_weight = identity(self.width)
        self.frame_logit_weight = identity(self.frames)

    def prepare_text(self, text: TextFeatures) -> Texts:
        """Unit sentences and unit words.

        Raises:
            UsageError: texts of another length than the head is for.
        """
        if not self.needs_words:
            return Texts(unit(text.sentence), unit(text.words[:, :0]), text.mask)
        self.require_size(text.words.shape[1], self.words, of="words")
        return Texts(unit(text.sentence), self.units(text.words, text.mask), text.mask)

    def vector_and_frames(self, video: VideoFeatures) -> tuple[Tensor, Tensor]:
        """Unit vectors [Nv, 1, D] after the temporal step, unit frames [Nv, T, D] before it.

        Raises:
            UsageError: videos of another number of frames than the head is for.
            TtvrError: a video without a real frame.
        """
        self.require_size(video.frames.shape[1], self.frames, of="frames")
        vector = masked_mean_of_units(self.temporal_frames(video), video.mask)
        return vector.unsqueeze(1), self.units(video.frames, video.mask)

    def units(self, x: Tensor, mask: Tensor) -> Tensor:
        """Unit vectors of x [B, N, D]; with `mask` some unit vector where the mask is False."""
        return unit(x.masked_fill(~mask.unsqueeze(-1), 1.0) if self.mask else x)

    def of_sentences(self, video: Videos) -> Scores:
        """Video-sentence and sentence-frame similarities [2, nt, nv] with some videos."""
        tokens = token_first(SHARPNESS * video.for_sentence)
        frame_mask = video.mask.T if self.mask else None

        def score(text: Texts) -> Tensor:
            x = products(text.sentence, tokens)  # [nt, 1+T, nv]
            frames = aggregate_videos_last(
                x[:, 1:], self.frame_logit_weight, twice=self.TWICE, mask=frame_mask
            )
            return torch.stack([x[:, 0], frames]) / SHARPNESS

        return score

    def weights(self, rows: Tensor, tokens: Tensor, matrix: Tensor, mask: Tensor) -> Tensor:
        """Weights of tokens [Nv, N, D] with a mask [Nv, N] for rows [Nt, ..., D].

        Returns:
            [Nt, Nv, ..., N], as they enter the score.
        """
        x = products(rows, token_first(SHARPNESS * tokens))
        token_mask = mask.T if self.mask else None
        weights, total = weights_before_norm(x, matrix, twice=self.TWICE, mask=token_mask)
        return (weights / total).movedim(-1, 1)

    def pair_floats(self) -> int:
        """The similarities, their logit and the rest; words and frames exist a tile at a time."""
        return 8

    @classmethod
    def official_options(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Temporal step and sizes, all of which the tensors tell."""
        told = super().official_options(state)
        for size, name in (
            ("width", "global_mat_weight"),
            ("frames", "frame_logit_weight"),
            ("words", "word_mat_weight"),
        ):
            if name in state:
                told[size] = len(state[name])
        return told

    def require_size(self, found: int, expected: int, *, of: str) -> None:
        """Refuse features of another number of tokens than the matrices are for.

        Raises:
            UsageError: names both numbers.
        """
        if found != expected:
            raise UsageError(
                f"this {type(self).__name__} has matrices for {expected} {of}, got {found}; "
                f"give it features with {expected}, or train one for {found}"
            )


def identity(size: int) -> nn.Parameter:
    """A learned matrix [size, size] as it starts."""
    return nn.Parameter(torch.eye(size))
