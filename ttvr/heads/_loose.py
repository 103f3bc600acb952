"""The loose calculators of CLIP4Clip: a text and a video meet in one inner product."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from torch import Tensor

from ttvr.heads._temporal import TemporalHead
from ttvr.records import TextFeatures, VideoFeatures


class Vectors(NamedTuple):
    """One unit vector per item, [N, D]."""

    vector: Tensor


class LooseHead(TemporalHead):
    """Cosine of unit(sentence) and unit(masked mean of unit(frames after the temporal step)).

    The second normalization is in the authors' code and not in CenterCLIP's equation 5; the code
    is followed. A video without a real frame is refused, where the published code gives NaN.
    """

    offline: ClassVar[bool] = True

    def prepare_text(self, text: TextFeatures) -> Vectors:
        """Unit sentences [Nt, D]."""
        return Vectors(self.vector_text(text))

    def prepare_video(self, video: VideoFeatures) -> Vectors:
        """Unit video vectors [Nv, D]."""
        return Vectors(self.vector_video(video))

    def similarities(self, text: Vectors, video: Vectors) -> Tensor:
        """Cosines [1, Nt, Nv]."""
        return (text.vector @ video.vector.T).unsqueeze(0)
