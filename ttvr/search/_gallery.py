"""What queries are held against: the vectors of a folder, or its frames by a head on pairs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ttvr.errors import IncompatibleError, TtvrError, UsageError
from ttvr.heads._base import Head
from ttvr.heads.meanp import MeanP
from ttvr.records import TextFeatures
from ttvr.retriever import Retriever, has_own_vectors, load_for, require_same, stored_videos
from ttvr.score import MEMORY, at_once, top_k, top_pairs, video_vectors
from ttvr.store import Features, Rows

QUERIES_AT_ONCE = 64
PAIR_QUERIES_AT_ONCE = 1024
"""Videos are prepared once for so many queries, which takes longer than a query's own scores."""

_MEANP = "meanp"


class Gallery(NamedTuple):
    """The videos of a folder as a head sees them.

    Attributes:
        find: texts [Nq] -> scores [Nq, k] float32 and rows [Nq, k] int64, best first.
        queries_at_once: texts that `find` is meant to get.
    """

    find: Callable[[TextFeatures], tuple[Tensor, Tensor]]
    queries_at_once: int


def open_model(
    features: Features,
    *,
    weights: str | Path | None = None,
    head: str | None = None,
    activation: str | None = None,
    device: str | torch.device = "cpu",
) -> Retriever:
    """The model that made a folder of videos, or another with the same towers.

    Args:
        features: a folder of videos.
        weights: as `rank`, the others and the errors too.
        head: likewise.
        activation: likewise.
        device: likewise.
    """
    if features.kind != "video":
        raise IncompatibleError(f"{features.path} holds texts; expected features of videos")
    if not len(features):
        raise TtvrError(f"{features.path} holds no videos: no input gave features")
    made_with = features.meta["model"]
    retriever = load_for(
        made_with, weights=weights, head=head, activation=activation, device=device
    )
    require_same(
        made_with, retriever.identity(), "base", folder=features.path, what="queries are encoded"
    )
    return retriever


def open_gallery(
    retriever: Retriever,
    features: Features,
    *,
    top: int,
    rerank: int | None = None,
    memory: int = MEMORY,
) -> Gallery:
    """What finds the best `top` videos of a folder; arguments and errors as `search`."""
    head = retriever.head
    if head.offline:
        if rerank is not None:
            raise UsageError(
                f"--rerank: a score of {retriever.head_name} is one inner product, there is "
                "nothing to take anew; it goes with heads that score pairs"
            )
        vectors = _vectors(retriever, features, memory)
        return Gallery(lambda text: _nearest(head, vectors, text, top), QUERIES_AT_ONCE)
    videos = stored_videos(retriever, features)
    coarse = None if rerank is None else _coarse(retriever, features, memory)

    def find(text: TextFeatures) -> tuple[Tensor, Tensor]:
        among = None if coarse is None else _nearest(*coarse, text, rerank)[1]
        return top_pairs(
            head, text, videos, top, among=among, scale=retriever.scale.detach(), memory=memory
        )

    positions = 1 + (retriever.text_length if head.needs_words else 0)
    at_most = at_once(positions * retriever.clip.width, memory)
    return Gallery(find, min(PAIR_QUERIES_AT_ONCE, at_most))


def _nearest(head: Head, vectors: Any, text: TextFeatures, k: int) -> tuple[Tensor, Tensor]:
    scores, rows = top_k(head.vector_text(text), vectors, k)
    return scores * head.vector_gain, rows


def _coarse(retriever: Retriever, features: Features, memory: int) -> tuple[Head, Rows | Tensor]:
    """What finds candidates: a head with vectors, and those of the videos.

    meanP's will do where they are there: to compute other ones takes as long as a few queries.
    """
    is_meanp = features.meta["model"]["head"] == _MEANP
    if is_meanp and not has_own_vectors(retriever, features):
        return MeanP(width=retriever.clip.width), features.video
    return retriever.head, _vectors(retriever, features, memory)


def _vectors(retriever: Retriever, features: Features, memory: int) -> Rows | Tensor:
    """The head's vectors of the videos: those of the folder where it made them, or new ones."""
    if has_own_vectors(retriever, features):
        return features.video
    videos = stored_videos(retriever, features)
    return video_vectors(retriever.head, videos, device=retriever.device, memory=memory)
