"""TS2-Net: selected patches join the frames in time, and a text weighs the frames.

Liu et al., "TS2-Net: Token Shift and Selection Transformer for Text-Video Retrieval" (2022), as its
code has it. The token shift is a reducer of the visual tower (`token_shift`).
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ttvr.errors import IncompatibleError
from ttvr.heads._base import FrameWeights, without_autocast
from ttvr.heads._layers import masked_mean_of_units, require_frames, unit
from ttvr.heads._loose import Vectors
from ttvr.heads._selector import TokenSelector
from ttvr.heads._temporal import LAYERS, POSITIONS, TemporalHead
from ttvr.records import TextFeatures, VideoFeatures

_SHARPNESS = 4.0  # of the weights of frames


class Frames(NamedTuple):
    """Frames after the temporal step.

    Attributes:
        frames: [Nv, T, D]; of unit length where prepared, and any unit vector where masked.
        mask: [Nv, T] bool, True = real.
    """

    frames: Tensor
    mask: Tensor


class TS2Net(TemporalHead):
    """A softmax over frames of cosines with the sentence weighs those same cosines.

    Each frame gives its class token and some of its patches (`TokenSelector`); blocks of attention
    run over those of all frames; of what they make the class tokens go on.

    Departures from the authors' code: it marks real tokens by repeating the whole mask, where the
    tokens of a frame stand together, and so drops real frames and keeps padded ones
    (`compat_tile_mask`); it draws the noise of the selection anew in evaluation. It computes a
    second score that never counts, which is left out. Their checkpoints hold a prompt encoder of
    the video and a selector of text tokens that enter no score: `OFFICIAL_UNUSED` names them as
    far as known without a checkpoint to look at.

    Args:
        width: D of the features.
        frames: T of a video; its tokens are at most `positions`: 19 frames of 4.
        words: L of a text; not read.
        layers: blocks, which `init_from_clip` starts from CLIP's text tower.
        heads: of attention; None: width // 64.
        positions: rows of the table of positions.
        top: patches of each frame that are selected.
        samples: of the selection's noise.
        sigma: its standard deviation.
        seed: of it in evaluation.
        hard: select in evaluation without noise.
        compat_tile_mask: the mask as the authors' code has it; padding then changes scores.
    """

    needs_patches: ClassVar[bool] = True
    OFFICIAL_UNUSED: ClassVar[tuple[str, ...]] = (
        "*prompt*",
        "text_token_selector.*",
        "word_token_selector.*",
        "sentence_token_selector.*",
    )

    def __init__(
        self,
        *,
        width: int = 512,
        frames: int = 12,
        words: int = 32,
        layers: int = LAYERS,
        heads: int | None = None,
        positions: int = POSITIONS,
        top: int = 3,
        samples: int = 500,
        sigma: float = 0.05,
        seed: int = 0,
        hard: bool = False,
        compat_tile_mask: bool = False,
    ) -> None:
        super().__init__(
            width=width,
            frames=frames,
            words=words,
            layers=layers,
            heads=heads,
            positions=positions,
            tokens_per_frame=1 + max(top, 0),  # what is no number of patches, the selector refuses
        )
        self.least_patches = top
        self.compat_tile_mask = compat_tile_mask
        self.visual_token_selector = TokenSelector(
            width, top=top, samples=samples, sigma=sigma, seed=seed, hard=hard
        )

    def prepare_text(self, text: TextFeatures) -> Vectors:
        """Unit sentences [Nt, D]."""
        return Vectors(self.vector_text(text))

    def prepare_video(self, video: VideoFeatures) -> Frames:
        """Unit frames [Nv, T, D] after selection and temporal step."""
        return _units(self._after_step(video))

    def similarities(self, text: Vectors, video: Frames) -> Tensor:
        """Weighted cosines [1, Nt, Nv]."""
        cosines, weights = _weigh(text, video)
        return (weights * cosines).sum(dim=2).unsqueeze(0)

    def vector_video(self, video: VideoFeatures) -> Tensor:
        """[B, D] unit vectors: the masked mean of unit frames after the temporal step."""
        with without_autocast(video.frames.device):
            return masked_mean_of_units(*self._after_step(video))

    def frame_weights(self, text: TextFeatures, video: VideoFeatures) -> FrameWeights:
        """How much each frame of each video counts for each sentence."""
        with without_autocast(video.frames.device):
            weights = _weigh(self.prepare_text(text), self.prepare_video(video))[1]
        return FrameWeights(weights, None, "weight of each frame for the sentence")

    def pair_floats(self) -> int:
        """Cosines, their unit vector, weights and products of T frames."""
        return 4 * self.frames

    def frames_of(self, tokens: Tensor, mask: Tensor) -> Frames:
        """The temporal step over all tokens, of which the class tokens are kept.

        Args:
            tokens: [B, T * (1 + top), D], of frame after frame the class token and selected ones.
            mask: [B, T] bool, True = real.

        Returns:
            Frames [B, T, D] not normalized, and which of them count.

        Raises:
            TtvrError: a video without a real frame.
        """
        require_frames(mask)
        each = tokens.shape[1] // mask.shape[1]
        if self.compat_tile_mask:
            real = mask.repeat(1, each)
        else:
            real = mask.repeat_interleave(each, dim=1)
        return Frames(self.temporal_step(tokens, real)[:, ::each], real[:, ::each])

    def _after_step(self, video: VideoFeatures) -> Frames:
        if video.patches is None:
            raise IncompatibleError(
                "the head ts2net selects patches, which these features lack; extract with patches"
            )
        return self.frames_of(self.visual_token_selector(video.frames, video.patches), video.mask)


def _units(video: Frames) -> Frames:
    """Frames of unit length; what is masked is some vector that gradients pass through unharmed."""
    real = video.mask.unsqueeze(2)
    return Frames(unit(video.frames.masked_fill(~real, 1.0)), video.mask)


def _weigh(text: Vectors, video: Frames) -> tuple[Tensor, Tensor]:
    """Cosines [Nt, Nv, T] of sentences and frames, and the weights of the latter."""
    cosines = torch.einsum("td,vjd->tvj", text.vector, video.frames)
    real = video.mask.unsqueeze(0)
    spread = _SHARPNESS * unit(cosines.masked_fill(~real, 0.0))
    return cosines, spread.masked_fill(~real, -torch.inf).softmax(dim=2)


PLUGIN = TS2Net
