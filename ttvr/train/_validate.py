"""How well a model ranks a split, straight from its clips."""

from __future__ import annotations

from typing import Any

import torch

from ttvr import frames as framing
from ttvr import metrics
from ttvr.errors import TtvrError
from ttvr.loader import Read, Wanted, stacked
from ttvr.records import Split, VideoFeatures
from ttvr.retriever import Retriever
from ttvr.score import similarity_matrix
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
    was_training = retriever.training
    retriever.eval()
    try:
        text = encode_texts(
            retriever,
            split.captions,
            batch_size=_AT_ONCE,
            words=not retriever.head.offline,
            length=retriever.text_length,
        )
        video = _encode(retriever, split, read, jobs)
        for features in (text.sentence, video.frames[video.mask]):
            if not features.isfinite().all():
                raise TtvrError(
                    f"the features of {split.name} are not finite, the training has diverged; the "
                    "last checkpoint is left as it was; try a lower learning rate"
                )
        sims = similarity_matrix(retriever.head, text, video)
    finally:
        retriever.train(was_training)
    return metrics.summary(sims.numpy(), split.owner)


def _encode(retriever: Retriever, split: Split, read: Read, jobs: int) -> VideoFeatures:
    recipe = retriever.recipe
    sampler, T = framing.SAMPLERS[recipe.sampler], recipe.frames
    wanted = (Wanted(clip, lambda n: sampler(n, T)) for clip in split.clips)
    size, patches = retriever.clip.image_size, retriever.head.needs_patches
    batches = stacked(wanted, read, at_once=_AT_ONCE, frames=T, size=size, jobs=jobs)
    parts = [retriever.encode_video(*batch, patches=patches) for batch in batches]
    fields = zip(*parts, strict=True)
    return VideoFeatures(*(None if field[0] is None else torch.cat(field) for field in fields))
