"""The contract of every similarity head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ttvr.clip.model import CLIP
from ttvr.errors import IncompatibleError
from ttvr.heads._layers import masked_mean_of_units, unit
from ttvr.losses import info_nce
from ttvr.records import TextFeatures, VideoFeatures

State = Any
OFFICIAL_WRAPPERS = ("module.",)


class Head(nn.Module):
    """How well texts and videos match.

    Entry (i, j) of every matrix depends on text i and video j alone, so scoring may run in blocks
    of any size. A state is a NamedTuple of tensors whose leading dimension counts the items.
    """

    offline: ClassVar[bool] = False
    """A score is `vector_gain` times one inner product of a vector per text and one per video."""
    needs_patches: ClassVar[bool] = False
    gather: ClassVar[bool] = True
    """The loss is taken over the batches of all processes together."""
    vector_gain: float = 1.0
    OFFICIAL_UNUSED: ClassVar[tuple[str, ...]] = ()
    """Tensors of the authors' checkpoints that never enter a score."""

    def __init__(self, *, width: int = 512, frames: int = 12, words: int = 32) -> None:
        """Every head is built for these sizes, and some have matrices of them.

        Args:
            width: D of the features.
            frames: T' of a video, after token reduction.
            words: L of a text.
        """
        super().__init__()
        self.width, self.frames, self.words = width, frames, words

    def prepare_text(self, text: TextFeatures) -> State:
        """All that depends on the text alone, once per text."""
        raise NotImplementedError

    def prepare_video(self, video: VideoFeatures) -> State:
        """All that depends on the video alone, once per video."""
        raise NotImplementedError

    def similarities(self, text: State, video: State) -> Tensor:
        """Prepared texts and videos -> [G, Nt, Nv], one matrix per granularity, cosine scale."""
        raise NotImplementedError

    def fuse(self, sims: Tensor, scale: Tensor) -> Tensor:
        """Sims [G, Nt, Nv] -> logits [Nt, Nv]: `scale` (exp of the logit scale) times the mean."""
        return scale * sims.mean(dim=0)

    def forward(self, text: TextFeatures, video: VideoFeatures, scale: Tensor) -> Tensor:
        """Logits [Nt, Nv] of all pairs, in at least float32."""
        with without_autocast(scale.device):
            sims = self.similarities(self.prepare_text(text), self.prepare_video(video))
            return self.fuse(sims, scale)

    def losses(self, text: TextFeatures, video: VideoFeatures, scale: Tensor) -> dict[str, Tensor]:
        """Losses of matched pairs by name, to be summed; in at least float32."""
        with without_autocast(scale.device):
            return {"nce": info_nce(self(text, video, scale))}

    def vector_text(self, text: TextFeatures) -> Tensor:
        """[B, E] unit vectors: what `text/` of a feature folder holds."""
        return unit(text.sentence)

    def vector_video(self, video: VideoFeatures) -> Tensor:
        """[B, E] unit vectors: what `video/` of a feature folder holds."""
        return masked_mean_of_units(video.frames, video.mask)

    def init_from_clip(self, clip: CLIP) -> None:
        """Copy what this head takes over from CLIP; by default nothing."""

    @classmethod
    def from_official(
        cls, state: Mapping[str, Tensor], *, heads: int | None = None, **options: Any
    ) -> Head:
        """A head with the weights of its authors' checkpoint.

        Args:
            state: the authors' parameter names, CLIP's own (`clip.*`) included or not.
            heads: attention heads, where the head has any; width // 64 by default.
            options: as the constructor.

        Raises:
            IncompatibleError: tensors are missing or unknown; they are listed.
        """
        del heads
        head = cls(**options)
        own = {strip_wrappers(name): tensor for name, tensor in state.items()}
        own = {
            name: tensor
            for name, tensor in own.items()
            if not name.startswith("clip.") and name not in cls.OFFICIAL_UNUSED
        }
        missing = sorted(set(head.state_dict()) - set(own))
        unknown = sorted(set(own) - set(head.state_dict()))
        if missing or unknown:
            raise IncompatibleError(
                f"not a checkpoint of {cls.__name__}: missing {missing or 'nothing'}, "
                f"unknown {unknown or 'nothing'}"
            )
        head.load_state_dict(own)
        return head


def without_autocast(device: torch.device) -> torch.autocast:
    """The context in which scores and losses are computed, also by a model under autocast."""
    return torch.autocast(device.type, enabled=False)


def strip_wrappers(name: str) -> str:
    """A tensor's name without the prefixes that training wrappers put before it."""
    for prefix in OFFICIAL_WRAPPERS:
        name = name.removeprefix(prefix)
    return name
