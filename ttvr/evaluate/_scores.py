"""The score of every caption with every video, after checking that they belong together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ttvr import plugins
from ttvr.errors import IncompatibleError
from ttvr.evaluate._pairs import quoted
from ttvr.records import TextFeatures
from ttvr.retriever import (
    Retriever,
    has_own_vectors,
    require_same,
    stored_texts,
    stored_videos,
)
from ttvr.score import MEMORY, inner_products, similarity_matrix, text_vectors, video_vectors
from ttvr.store import Features
from ttvr.wording import counted

Encode = Callable[[list[str]], tuple[TextFeatures, int]]
"""Captions -> their features, in order, and how many had to be cut."""


def needs_model(features: Features, texts: Features | None) -> bool:
    """Whether scoring takes a model.

    It does where captions are to be encoded, the head works on frames, or the texts have vectors of
    another head, but words that this one can make its own of.
    """
    if texts is None or not _is_offline(features):
        return True
    own, other = features.meta["model"], texts.meta["model"]
    return own["space"] != other["space"] and own["base"] == other["base"]


def scores(
    features: Features,
    captions: list[str],
    retriever: Retriever | None,
    encode: Encode | None,
    texts: Features | None,
    *,
    memory: int = MEMORY,
    granularities: bool = False,
) -> tuple[np.ndarray, int]:
    """[Nt, Nv] float32 on the CPU, and how many captions had to be cut.

    With `granularities` [G, Nt, Nv] of a head that scores pairs, as `similarity_matrix` says.
    """
    own = features.meta["model"]
    if retriever is None:
        return _stored(features, captions, texts), 0
    what = "the captions are to be encoded"
    require_same(own, retriever.identity(), "base", folder=features.path, what=what)
    cut = 0
    if texts is not None:
        require_same(own, texts.meta["model"], "base", folder=features.path, what=str(texts.path))
        text = stored_texts(retriever, texts, _rows_of(texts, captions))
    elif encode is not None:
        text, cut = encode(captions)
    else:
        raise ValueError("captions are to be encoded, and nobody says how")
    head, device = retriever.head, retriever.device
    if not head.offline:
        videos, scale = stored_videos(retriever, features), retriever.scale.detach()
        made = similarity_matrix(
            head, text, videos, memory=memory, scale=scale, granularities=granularities
        )
        return made.numpy(), cut
    vectors = features.video
    if not has_own_vectors(retriever, features):
        videos = stored_videos(retriever, features)
        vectors = video_vectors(head, videos, device=device, memory=memory)
    queries = text_vectors(head, text, device=device, memory=memory)
    return inner_products(queries, vectors).numpy(), cut


def _stored(features: Features, captions: Sequence[str], texts: Features | None) -> np.ndarray:
    """Of vectors that are both in folders."""
    if texts is None or not _is_offline(features):
        raise ValueError("a model is needed: captions to encode, or a head that works on frames")
    own, other = features.meta["model"], texts.meta["model"]
    require_same(own, other, "space", folder=features.path, what=str(texts.path))
    rows = _rows_of(texts, captions)
    return inner_products(torch.from_numpy(texts.text[rows]), features.video).numpy()


def _is_offline(features: Features) -> bool:
    return plugins.load("heads", features.meta["model"]["head"]).offline


def _rows_of(texts: Features, captions: Sequence[str]) -> list[int]:
    """The row of each caption in a text folder; spaces around either do not matter."""
    rows = {text.strip(): row for row, text in enumerate(texts.texts)}
    unknown = [caption for caption in captions if caption.strip() not in rows]
    if unknown:
        lacking = counted(len(unknown), "caption")
        raise IncompatibleError(
            f"{texts.path} has no row for {lacking}, such as {quoted(unknown[0])}; "
            "encode them again with `ttvr-extract --text`, or leave --text-features out"
        )
    return [rows[caption.strip()] for caption in captions]
