"""The score of every caption with every video, after checking that they belong together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ttvr import plugins
from ttvr.errors import IncompatibleError
from ttvr.evaluate._pairs import quoted
from ttvr.records import TextFeatures, VideoFeatures
from ttvr.retriever import Retriever, require_same
from ttvr.score import inner_products, similarity_matrix
from ttvr.store import Features

Encode = Callable[[list[str]], tuple[TextFeatures, int]]
"""Captions -> their features, in order, and how many had to be cut."""


def needs_model(features: Features, texts: Features | None) -> bool:
    """Whether scoring takes a model: captions are to be encoded, or the head works on frames."""
    return texts is None or not plugins.load("heads", features.meta["model"]["head"]).offline


def scores(
    features: Features,
    captions: list[str],
    retriever: Retriever | None,
    encode: Encode | None,
    texts: Features | None,
    *,
    granularities: bool = False,
) -> tuple[np.ndarray, int]:
    """[Nt, Nv] float32 on the CPU, and how many captions had to be cut.

    With `granularities` [G, Nt, Nv] of a head that scores pairs, as `similarity_matrix` says.
    """
    model = retriever.identity() if retriever is not None else features.meta["model"]
    head = plugins.load("heads", model["head"])
    key = "space" if head.offline else "base"
    own = features.meta["model"]
    require_same(own, model, key, folder=features.path, what="the captions are to be encoded")
    if texts is not None:
        require_same(own, texts.meta["model"], key, folder=features.path, what=str(texts.path))
        rows = _rows_of(texts, captions)
    if head.offline and texts is not None:
        return inner_products(torch.from_numpy(texts.text[rows]), features.video).numpy(), 0
    if retriever is None or (texts is None and encode is None):
        raise ValueError("a model is needed: captions to encode, or a head that works on frames")
    if texts is None:
        text, cut = encode(captions)
    else:
        text, cut = _stored_words(texts, rows, retriever.device), 0
    if head.offline:
        with torch.inference_mode():
            vectors = retriever.head.vector_text(text)
        return inner_products(vectors, features.video).numpy(), cut
    lacking = [
        name
        for name, needed in (("frames", True), ("patches", head.needs_patches))
        if needed and getattr(features, name) is None
    ]
    if lacking:
        raise IncompatibleError(
            f"the head {model['head']} needs {' and '.join(lacking)}, which {features.path} does "
            "not hold; extract again with them"
        )
    patches = features.patches if head.needs_patches else None
    video = VideoFeatures(features.frames, features.mask, patches)
    made = similarity_matrix(retriever.head, text, video, granularities=granularities)
    return made.numpy(), cut


def _rows_of(texts: Features, captions: Sequence[str]) -> list[int]:
    """The row of each caption in a text folder; spaces around either do not matter."""
    rows = {text.strip(): row for row, text in enumerate(texts.texts)}
    unknown = [caption for caption in captions if caption.strip() not in rows]
    if unknown:
        raise IncompatibleError(
            f"{texts.path} has no row for {len(unknown)} captions, such as {quoted(unknown[0])}; "
            "encode them again with `ttvr-extract --text`, or leave --text-features out"
        )
    return [rows[caption.strip()] for caption in captions]


def _stored_words(texts: Features, rows: list[int], device: torch.device) -> TextFeatures:
    words, mask = (torch.from_numpy(part[rows]).to(device) for part in (texts.words, texts.mask))
    words, last = words.float(), mask.sum(1) - 1
    return TextFeatures(words[torch.arange(len(rows), device=device), last], words, mask)
