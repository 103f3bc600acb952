"""How well a model ranks a split, straight from its clips."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ttvr import distributed, metrics
from ttvr import frames as framing
from ttvr.errors import TtvrError
from ttvr.loader import Read, Wanted, stacked
from ttvr.records import Split, VideoFeatures
from ttvr.retriever import Retriever
from ttvr.score import streamed_matrix
from ttvr.search import encode_texts

_AT_ONCE = 32


@torch.inference_mode()
def validate(
    retriever: Retriever, split: Split, read: Read, *, jobs: int = 1
) -> dict[str, Any] | None:
    """Rank all clips for all captions and back, in float32 as the model is used afterwards.

    Of several processes, which all have to come here, each encodes a part of the clips; the first
    one encodes the captions and ranks.

    Args:
        retriever: its mode is restored.
        split: captions and clips; all clips are candidates.
        read: of the split's dataset.
        jobs: clips read at once.

    Returns:
        Of both directions, as `metrics.summary`; None in all processes but the first.

    Raises:
        TtvrError: a clip cannot be read, or a feature or score is not finite.
    """
    was_training, head = retriever.training, retriever.head
    retriever.eval()
    try:
        video = _encode(retriever, split, read, jobs)
        if not distributed.leads():
            for _ in video:
                pass
            return None
        text = encode_texts(
            retriever,
            split.captions,
            batch_size=_AT_ONCE,
            words=head.needs_words,
            length=retriever.text_length,
        )
        _require_finite(text.sentence, split)
        scale = 1.0 if head.offline else retriever.scale
        sims = streamed_matrix(head, text, video, scale=scale)
    finally:
        retriever.train(was_training)
    return metrics.summary(sims.numpy(), split.owner)


def _encode(retriever: Retriever, split: Split, read: Read, jobs: int) -> Iterator[VideoFeatures]:
    """The features of all clips in order, some at a time, of which each process encodes a part."""
    recipe = retriever.recipe
    sampler, T = framing.SAMPLERS[recipe.sampler], recipe.frames
    # Fewer clips than processes are not worth sharing: each encodes all of them.
    W, N = distributed.world(), len(split.clips)
    W, rank = (W, distributed.rank()) if N >= W else (1, 0)
    shares = [
        first + row
        for first in range(0, N, W * _AT_ONCE)
        for row in range(N)[distributed.part(min(W * _AT_ONCE, N - first), rank=rank, world=W)]
    ]
    wanted = (Wanted(split.clips[at], lambda n: sampler(n, T)) for at in shares)
    size, patches = retriever.clip.image_size, retriever.head.needs_patches
    pinned = retriever.device.type == "cuda"
    batches = stacked(
        wanted, read, at_once=_AT_ONCE, frames=T, size=size, jobs=jobs, is_pinned=pinned
    )
    for _ in range(0, N, W * _AT_ONCE):
        if (batch := next(batches, None)) is not None:
            video = retriever.encode_pixels(*batch, patches=patches)
        else:  # the last clips are fewer than the processes
            video = VideoFeatures(*(None if one is None else one[:0] for one in video))
        _require_finite(video.frames[video.mask], split)
        rows = distributed.sizes(len(video.frames)) if W > 1 else []
        yield VideoFeatures(*distributed.gather(video, rows)) if W > 1 else video


def _require_finite(features: Tensor, split: Split) -> None:
    if not features.isfinite().all():
        raise TtvrError(
            f"the features of {split.name} are not finite, the training has diverged; the last "
            "checkpoint is left as it was; try a lower learning rate"
        )
