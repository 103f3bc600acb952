"""Encoders and head as one model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ttvr import distributed, plugins
from ttvr import frames as framing
from ttvr.clip import weights as checkpoints
from ttvr.clip.model import CLIP
from ttvr.files import write
from ttvr.heads._base import Head
from ttvr.recipes import Recipe, settings_of
from ttvr.records import Batch, EncodedBatch, TextFeatures, VideoFeatures
from ttvr.reducers import Plan
from ttvr.retriever._padding import filled, with_last_repeated
from ttvr.retriever._reduction import as_module

FINGERPRINT_DIGITS = 16

Features = TypeVar("Features", TextFeatures, VideoFeatures)


class Retriever(nn.Module):
    """A CLIP, a similarity head, and how they came to be. Made by `load` or `build`.

    `auxiliary` is None, or a loss with parameters of its own that training adds and `save` leaves
    out: it takes ids [B, L], and the unit vectors of texts and videos [B, D].

    `trained` says how training chose the weights: "select" (best or last), "on" (the split that
    best was chosen by), "step", "steps" and "seed"; it is empty where that is not known.

    Args:
        clip: both towers.
        head: scores what the towers make.
        recipe: the settings they were trained with, or the defaults.
        source: name or path of the checkpoint.
        note: what the checkpoint says of itself; mostly empty.
        activation: of CLIP's MLPs.
        plan: token reducers that act in the visual tower; None: none do.
    """

    def __init__(
        self,
        clip: CLIP,
        head: Head,
        *,
        recipe: Recipe,
        source: str,
        activation: str,
        note: str = "",
        plan: Plan | None = None,
    ) -> None:
        super().__init__()
        self.clip = clip
        self.head = head
        self.plan = plan or Plan({}, {}, 0)
        self.reducers = as_module(self.plan)
        self.recipe = recipe
        self.source = source
        self.note = note
        self.activation = activation
        self.auxiliary: nn.Module | None = None
        self.trained: dict[str, Any] = {}

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return next(self.clip.parameters()).device

    @property
    def text_length(self) -> int:
        """L, tokens per text: what a head on words is built for, or all that CLIP takes.

        Such a head gets L positions of every text, padded ones too, which published ones count in.
        """
        return self.recipe.words if self.head.needs_words else self.clip.context_length

    @property
    def scale(self) -> Tensor:
        """What similarities are multiplied by: exp of CLIP's logit scale, a scalar."""
        return self.clip.logit_scale.exp()

    def encode_text(self, ids: Tensor) -> TextFeatures:
        """Ids [B, L] int64 -> TextFeatures; as `CLIP.encode_text`."""
        return self.clip.encode_text(ids.to(self.device))

    def encode_video(
        self,
        frames: Tensor,
        mask: Tensor,
        *,
        patches: bool = False,
        padding: VideoFeatures | None = None,
    ) -> VideoFeatures:
        """Encode videos.

        Args:
            frames: [B, T, 3, H, W] normalized pixels; padded frames are all zero.
            mask: [B, T] bool, True = real. What padded frames hold does not matter to reducers:
                they, which may see them, find the last real frame again in its place, as published.
            patches: return the projected patch tokens too.
            padding: of `padding`, with these weights; None: encoded with them where it is needed.

        Returns:
            As `VisionTransformer.forward`: segments in place of frames where reducers made some,
            and what `pad_frame` and `pad_patches` say in those that are masked, as in folders:
            heads without a mask count it in.
        """
        reducers = self.plan.reducers
        is_whole = not reducers or bool(mask.all())  # asked where the mask is: a GPU would wait
        frames, mask = frames.to(self.device), mask.to(self.device)
        if is_whole:
            return self.clip.encode_video(frames, mask, reducers, patches=patches)
        made = with_last_repeated(frames, mask)
        video = self.clip.encode_video(made, mask, reducers, patches=patches)
        if video.mask.all():
            return video
        return filled(video, padding or self.padding(frames.shape[1], patches=patches))

    def encode_pixels(
        self, pixels: Tensor, mask: Tensor, *, patches: bool = False
    ) -> VideoFeatures:
        """Encode videos as they were read; what becomes of them happens on the model's device.

        Args:
            pixels: [B, T, H, W, 3] uint8 RGB, on any device; padded frames may hold anything.
            mask: as `encode_video`, which gives the rest.
            patches: likewise.
        """
        # CUDA keeps pinned memory until it is copied; other memory may be gone by then.
        there = [one.to(self.device, non_blocking=one.is_pinned()) for one in (pixels, mask)]
        return self.encode_video(framing.normalize(*there), mask, patches=patches)

    def features(self, batch: Batch | EncodedBatch) -> tuple[TextFeatures, VideoFeatures]:
        """Both towers on a batch, in float32 whatever the precision they ran in.

        One that is encoded already stays as it is, on the model's device.
        """
        if isinstance(batch, EncodedBatch):
            return _moved(batch.text, self.device), _moved(batch.video, self.device)
        text = self.encode_text(batch.ids)
        video = self.encode_pixels(batch.frames, batch.mask, patches=self.head.needs_patches)
        patches = None if video.patches is None else video.patches.float()
        return (
            TextFeatures(text.sentence.float(), text.words.float(), text.mask),
            VideoFeatures(video.frames.float(), video.mask, patches),
        )

    def losses(self, text: TextFeatures, video: VideoFeatures, scale: Tensor) -> dict[str, Tensor]:
        """The head's losses of matched pairs by name; `scale` is exp of the logit scale."""
        return self.head.losses(text, video, scale)

    def forward(self, batch: Batch | EncodedBatch) -> dict[str, Tensor]:
        """The losses of a batch by name, weighted, to be summed; scalars of float32.

        Of several processes each has some rows of the batch. A head that gathers takes its loss of
        all of them, the same in every process; what is taken of a process's own rows is weighted by
        their number. So the mean over processes, of a loss and of its gradient, is that of the
        whole batch.
        """
        with distributed.own_chance(self.device):
            text, video = self.features(batch)
            rows = distributed.sizes(len(batch.ids))
            own = self.own_losses(batch.ids, text, video, rows)
        return {**self.common_losses(text, video, rows), **own}

    def own_losses(
        self, ids: Tensor, text: TextFeatures, video: VideoFeatures, rows: Sequence[int]
    ) -> dict[str, Tensor]:
        """The losses that are taken of a process's own rows, as `forward`; mostly the words' alone.

        Args:
            ids: [B, L] int64 tokens of its captions.
            text: of its captions.
            video: of their videos.
            rows: B of every process.
        """
        share = len(ids) * len(rows) / sum(rows)
        losses = {}
        if not self.head.gather:
            own = self.losses(text, video, self.scale)
            losses = {name: share * loss for name, loss in own.items()}
        if self.auxiliary is not None:
            vectors = self.head.vector_text(text), self.head.vector_video(video)
            words = self.auxiliary(ids.to(self.device), *vectors)
            losses["words"] = self.recipe.word_loss * share * words
        return losses

    def common_losses(
        self, text: TextFeatures, video: VideoFeatures, rows: Sequence[int]
    ) -> dict[str, Tensor]:
        """The losses of all processes' rows, as `forward`; none where the head does not gather.

        Args:
            text: of this process's captions.
            video: of their videos.
            rows: as of `own_losses`.
        """
        if not self.head.gather:
            return {}
        text = TextFeatures(*distributed.gather(text, rows))
        video = VideoFeatures(*distributed.gather(video, rows))
        return self.losses(text, video, self.scale)

    @torch.inference_mode()
    def pad_frame(self, frames: int = 1) -> Tensor:
        """[D] float32: what an all-zero frame becomes, which unmasked heads see as padding.

        Args:
            frames: T of the videos. With token reducers it is the last segment of a video that is
                padding alone.
        """
        return self.padding(frames, patches=False).frames[0, -1].float()

    @torch.inference_mode()
    def pad_patches(self, frames: int = 1) -> Tensor:
        """[P, D] float32: what its patches become, otherwise as `pad_frame`."""
        return self.padding(frames, patches=True).patches[0, -1].float()

    def padding(self, frames: int, *, patches: bool) -> VideoFeatures:
        """What a video of T padded frames becomes, of which the last frame or segment counts."""
        size, T = self.clip.image_size, frames if self.plan.reducers else 1
        pixels = torch.zeros(1, T, 3, size, size, device=self.device)
        mask = torch.zeros(1, T, dtype=torch.bool, device=self.device)
        return self.clip.encode_video(pixels, mask, self.plan.reducers, patches=patches)

    def identity(self) -> dict[str, Any]:
        """The `model` entry of a feature folder: what decides which features belong together.

        `base` governs frames, patches and words, `space` the vectors of `video/` and `text/`. Both
        count the activation in, since the same tensors with another activation give other features.
        """
        state = self.clip.state_dict()
        fingerprint = checkpoints.fingerprint(state)
        options = dict(self.recipe.head_options)
        reduction: list[Any] = self.plan.canonical
        base = _digest([fingerprint, self.activation, [*reduction, *self._learned()]])
        return {
            "arch": checkpoints.arch(state),
            "activation": self.activation,
            "fingerprint": fingerprint,
            "source": self.source,
            "note": self.note,
            "head": self.head_name,
            "head_options": options,
            "reduce": reduction,
            "base": base,
            "space": self.space_on(base),
        }

    def space_on(self, base: str) -> str:
        """What governs the vectors that the head makes of features with that `base`."""
        options = plugins.beyond_defaults(type(self.head), dict(self.recipe.head_options))
        head = [self.head_name, options, checkpoints.fingerprint(self.head.state_dict())]
        return _digest([base, *head])

    def _learned(self) -> list[str]:
        """The fingerprint of what reducers have learned, where they learn at all."""
        state = self.reducers.state_dict()
        return [checkpoints.fingerprint(state)] if state else []

    @property
    def head_name(self) -> str:
        """Name of the head's plug-in."""
        return type(self.head).__module__.rpartition(".")[2]

    def save(self, path: str | Path) -> None:
        """Write weights and recipe as one `ttvr-run/1` file, atomically."""
        content = {
            "format": checkpoints.RUN_FORMAT,
            "clip": {name: tensor.cpu() for name, tensor in self.clip.state_dict().items()},
            "head": {name: tensor.cpu() for name, tensor in self.head.state_dict().items()},
            "reducers": {name: tensor.cpu() for name, tensor in self.reducers.state_dict().items()},
            "recipe": settings_of(self.recipe),
            "activation": self.activation,
            "training": dict(self.trained),
        }
        write(Path(path), lambda file: torch.save(content, file))


def _moved(features: Features, device: torch.device) -> Features:
    return type(features)(*(None if part is None else part.to(device) for part in features))


def _digest(parts: list[Any]) -> str:
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:FINGERPRINT_DIGITS]
