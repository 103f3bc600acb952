"""How well a model ranks a split, straight from its clips."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ttvr import frames as framing
from ttvr import metrics
from ttvr.errors import TtvrError
from ttvr.loader import Read, Wanted, stacked
from ttvr.records import Split, VideoFeatures
from ttvr.retriever import Retriever
from ttvr.score import streamed_matrix
from ttvr.search import encode_texts

_AT_ONCE = 32


@torch.inference_mode()
def validate(retriever: Retriever, split: Split, read: Read, *, jobs: int = 1) -> dict[str, Any]:
    """Rank all clips for all captions and back, in float32 as the model is used afterwards.

    Args:
        retriever: its mode is restored.
        split: captions and clips; all clips are candidates.
        read: of the split's dataset.
        jobs: clips read at once.

    Returns:
        Of both directions, as `metrics.summary`.

    Raises:
        TtvrError: a clip cannot be read, or a feature or score is not finite.
    """
    was_training, head = retriever.training, retriever.head
    retriever.eval()
    try:
        text = encode_texts(
            retriever,
            split.captions,
            batch_size=_AT_ONCE,
            words=head.needs_words,
            length=retriever.text_length,
        )
        _require_finite(text.sentence, split)
        video = _encode(retriever, split, read, jobs)
        scale = 1.0 if head.offline else retriever.scale
        sims = streamed_matrix(head, text, video, scale=scale)
    finally:
        retriever.train(was_training)
    return metrics.summary(sims.numpy(), split.owner)


def _encode(retriever: Retriever, split: Split, read: Read, jobs: int) -> Iterator[VideoFeatures]:
    """The features of all clips in order, some at a time."""
    recipe = retriever.recipe
    sampler, T = framing.SAMPLERS[recipe.sampler], recipe.frames
    wanted = (Wanted(clip, lambda n: sampler(n, T)) for clip in split.clips)
    size, patches = retriever.clip.image_size, retriever.head.needs_patches
    for batch in stacked(wanted, read, at_once=_AT_ONCE, frames=T, size=size, jobs=jobs):
        video = retriever.encode_video(*batch, patches=patches)
        _require_finite(video.frames[video.mask], split)
        yield video


def _require_finite(features: Tensor, split: Split) -> None:
    if not features.isfinite().all():
        raise TtvrError(
            f"the features of {split.name} are not finite, the training has diverged; the last "
            "checkpoint is left as it was; try a lower learning rate"
        )
