"""The contract of every similarity head."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ttvr.clip.model import CLIP
from ttvr.errors import IncompatibleError, UsageError
from ttvr.heads._layers import masked_mean_of_units, unit
from ttvr.losses import info_nce
from ttvr.records import TextFeatures, VideoFeatures

State = Any
_SHOWN = 5  # of the tensors that an error lists


class FrameWeights(NamedTuple):
    """What a head looks at: how much each frame counts for a text, to be drawn.

    Attributes:
        sentence: [Nt, Nv, T], for the whole text.
        words: [Nt, Nv, L, T], for each word; None where a head does not tell them apart.
        what: what the numbers are, in a few words: "attention of the sentence and of each word".
    """

    sentence: Tensor
    words: Tensor | None
    what: str


class Head(nn.Module):
    """How well texts and videos match.

    Entry (i, j) of every matrix depends on text i and video j alone, so scoring may run in blocks
    of any size. A state is a NamedTuple of tensors whose leading dimension counts the items.
    Features have the dtype of the parameters: float32, or float64 in tests.
    """

    offline: ClassVar[bool] = False
    """A score is `vector_gain` times one inner product of a vector per text and one per video."""
    needs_words: ClassVar[bool] = False
    """Texts come with a feature per token, and are cut or padded to `words` tokens."""
    needs_patches: ClassVar[bool] = False
    least_patches: int = 1
    """Of a head that needs patches: how many a frame or segment must have."""
    fixed_frames: ClassVar[bool] = False
    """It has matrices of `frames` rows, so no video with another number of frames fits."""
    most_frames: int | None = None
    """Frames of a video that it has positions for; None: any number."""
    gather: ClassVar[bool] = True
    """The loss is taken over the batches of all processes together."""
    vector_gain: float = 1.0
    vector_width: int
    """E of `vector_text` and `vector_video`; the head's width by default."""
    progress: float = 1.0
    """How far training is, from 0 on, which sets it before each step; 1 elsewhere."""
    main_loss: str = "nce"
    """Of the parts of `losses`, the one that pulls sentences and frames of a pair together."""
    OFFICIAL_UNUSED: ClassVar[tuple[str, ...]] = ()
    """Tensors of the authors' checkpoints that never enter a score, as `fnmatch` patterns."""
    OFFICIAL_WRAPPERS: ClassVar[tuple[str, ...]] = ("module.",)
    """Prefixes of names in the authors' checkpoints that are no part of them."""

    def __init__(self, *, width: int = 512, frames: int = 12, words: int = 32) -> None:
        """Every head is built for these sizes, and some have matrices of them.

        Args:
            width: D of the features.
            frames: T' of a video, after token reduction.
            words: L of a text.
        """
        super().__init__()
        self.width, self.frames, self.words = width, frames, words
        self.vector_width = width

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

    def factors(self, sims: Tensor, scale: Tensor) -> Tensor:
        """[G], what `fuse` multiplies each matrix of sims [G, Nt, Nv] by, before they meet.

        Rules that correct scores take matrices at the scale they have in there.
        """
        return scale.expand(len(sims))

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

    def frame_weights(self, text: TextFeatures, video: VideoFeatures) -> FrameWeights:
        """How much each frame of each video counts for each text.

        Raises:
            UsageError: the head has no such weights.
        """
        del text, video
        name = type(self).__module__.rpartition(".")[2]
        raise UsageError(f"the head {name} has no weights of frames to show")

    def init_from_clip(self, clip: CLIP) -> None:
        """Copy what this head takes over from CLIP; by default nothing."""

    def pair_floats(self) -> int:
        """Numbers that `similarities` holds at once for a text with a video, about.

        Blocks are cut to a budget of memory, and to what a processor's cache takes, by it.
        """
        return 4

    @classmethod
    def official_options(cls, state: Mapping[str, Tensor]) -> dict[str, Any]:
        """Options that the tensors of a checkpoint tell, such as the number of layers.

        Args:
            state: the authors' names without wrappers; without CLIP and unused tensors.
        """
        del state
        return {}

    @classmethod
    def from_official(
        cls, state: Mapping[str, Tensor], *, heads: int | None = None, **options: Any
    ) -> Head:
        """A head with the weights of its authors' checkpoint, whose names are those of ours.

        Args:
            state: the authors' parameter names, CLIP's own (`clip.*`) included or not.
            heads: the option of that name, which no tensor tells; None: the head's default.
            options: as the constructor; they go before what the tensors tell.

        Raises:
            IncompatibleError: tensors are missing, unknown or of another shape; they are listed.
        """
        own = cls.official_tensors(state)
        if heads is not None:
            options["heads"] = heads
        known = inspect.signature(cls).parameters
        told = {name: v for name, v in cls.official_options(own).items() if name in known}
        head = cls(**{**told, **options})
        expected = head.state_dict()
        missing = sorted(set(expected) - set(own))
        unknown = sorted(set(own) - set(expected))
        if missing or unknown:
            raise IncompatibleError(
                f"not a checkpoint of {cls.__name__}: missing {_listed(missing)}, "
                f"unknown {_listed(unknown)}"
            )
        other = [
            f"{name} {list(own[name].shape)}, expected {list(tensor.shape)}"
            for name, tensor in expected.items()
            if own[name].shape != tensor.shape
        ]
        if other:
            raise IncompatibleError(
                f"not a checkpoint of this {cls.__name__}: {_listed(other)}; other sizes or options"
            )
        head.load_state_dict(own)
        return head

    @classmethod
    def official_tensors(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of the authors' checkpoint what is the head's and used, without wrappers' prefixes."""
        named = {cls._without_wrappers(name): tensor for name, tensor in state.items()}
        return {
            name: tensor
            for name, tensor in named.items()
            if not name.startswith("clip.") and not cls.is_official_unused(name)
        }

    @classmethod
    def is_official_unused(cls, name: str) -> bool:
        """Whether a tensor of that name, wrappers removed, never enters a score."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in cls.OFFICIAL_UNUSED)

    @classmethod
    def _without_wrappers(cls, name: str) -> str:
        for prefix in cls.OFFICIAL_WRAPPERS:
            name = name.removeprefix(prefix)
        return name


def without_autocast(device: torch.device) -> torch.autocast:
    """The context in which scores and losses are computed, also by a model under autocast."""
    return torch.autocast(device.type, enabled=False)


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - _SHOWN
    tail = [f"{rest} more"] if rest > 0 else []
    return ", ".join([*names[:_SHOWN], *tail]) or "nothing"
