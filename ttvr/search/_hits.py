"""The best videos for each sentence, as hits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ttvr.clip import tokenizer
from ttvr.errors import UsageError
from ttvr.retriever import Retriever
from ttvr.score import MEMORY
from ttvr.search._gallery import Gallery, open_gallery, open_model
from ttvr.search._texts import encode_texts, report_unknown
from ttvr.store import Features


class Hit(NamedTuple):
    """A video that was found.

    Attributes:
        rank: from 1.
        id: of the video.
        path: of the file or image folder, absolute.
        score: of the head: of one inner product `vector_gain` times the cosine, so of meanp -1 to
            1; of pairs what the head makes of them at the model's logit scale.
        time: seconds from the first frame of the frame that fits best, to the millisecond; None
            where the features do not tell.
    """

    rank: int
    id: str
    path: str
    score: float
    time: float | None


class Hits(NamedTuple):
    """What was found for a query.

    Attributes:
        query: its number, from 0.
        id: its name, where it has one.
        text: the sentence.
        hits: best first.
    """

    query: int
    id: str | None
    text: str
    hits: tuple[Hit, ...]


def rank(
    queries: Sequence[str],
    features: str | Path | Features,
    top: int = 10,
    *,
    weights: str | Path | None = None,
    head: str | None = None,
    rerank: int | None = None,
    memory: int = MEMORY,
    activation: str | None = None,
    device: str | torch.device = "cpu",
) -> list[Hits]:
    """The best videos for each sentence.

    Args:
        queries: sentences.
        features: a feature folder, or its path.
        top: hits per sentence, at most.
        weights: a checkpoint; None takes the one that made the features.
        head: name of a similarity head; None takes the checkpoint's.
        rerank: as `search`.
        memory: likewise.
        activation: of the checkpoint's MLPs, where its file does not tell.
        device: where sentences are encoded and scored.

    Returns:
        One entry per sentence, in their order.

    Raises:
        TtvrError: of the folder, which may hold no videos, or of the model; a score that is not
            finite.
        IncompatibleError: the weights did not make these features, have none for the head, or the
            folder lacks what the head needs.
        RequirementError: the weights or the device are not there.
        UsageError: as `search`.
    """
    if isinstance(queries, str):
        raise ValueError(f"queries is a list of sentences, got the sentence {queries!r}")
    if not isinstance(features, Features):
        features = Features.open(features)
    retriever = open_model(
        features, weights=weights, head=head, activation=activation, device=device
    )
    return list(search(retriever, features, queries, top=top, rerank=rerank, memory=memory))


def search(
    retriever: Retriever,
    features: Features,
    queries: Sequence[str],
    *,
    top: int = 10,
    ids: Sequence[str | None] | None = None,
    on_long: str = "truncate",
    rerank: int | None = None,
    memory: int = MEMORY,
) -> Iterator[Hits]:
    """The best videos for each sentence, handed out as soon as they are known.

    Args:
        retriever: from `open_model`.
        features: a folder of videos.
        queries: sentences.
        top: hits per sentence, at most.
        ids: names of the sentences.
        on_long: what happens to sentences of more tokens than the model, or its head, has
            positions for: "truncate" (the end-of-text token is kept; their number is logged) or
            "error".
        rerank: of a head that scores pairs: score only so many videos per sentence, those whose
            vectors are nearest to it; None: all.
        memory: bytes that scoring may take.

    Returns:
        An iterator over one entry per sentence, in their order.

    Raises:
        UsageError: a sentence is too long, and that is an error, or blank; or `top` or `memory` is
            below 1, or `rerank` below `top`, or the head scores no pairs.
        IncompatibleError: the folder lacks what the head needs.
        TtvrError: a score is not finite.
    """
    if min(top, memory) < 1:
        raise UsageError(f"top and memory are at least 1, got {top} and {memory}")
    for number, query in enumerate(queries):
        if not query.strip():
            raise UsageError(f"query {number} is blank")
    if rerank is not None and rerank < top:
        raise UsageError(f"rerank {rerank}: hits are candidates, so at least the top {top}")
    names = [None] * len(queries) if ids is None else ids
    length = retriever.text_length
    tokenizer.count_long(queries, most=length, on_long=on_long, what="queries")
    report_unknown(retriever, queries, what="queries")
    gallery = open_gallery(retriever, features, top=top, rerank=rerank, memory=memory)

    def find() -> Iterator[Hits]:
        for start in range(0, len(queries), gallery.queries_at_once):
            texts = list(queries[start : start + gallery.queries_at_once])
            found = _find(retriever, features, gallery, texts)
            for number, (text, hits) in enumerate(zip(texts, found, strict=True), start=start):
                yield Hits(number, names[number], text, hits)

    return find()


@torch.inference_mode()
def _find(
    retriever: Retriever, features: Features, gallery: Gallery, texts: list[str]
) -> list[tuple[Hit, ...]]:
    """The hits of each text."""
    words, length = retriever.head.needs_words, retriever.text_length
    made = encode_texts(retriever, texts, words=words, length=length)
    scores, rows = gallery.find(made)
    return [
        tuple(
            Hit(place, features.ids[row], features.items[row]["file"], score, time)
            for place, (row, score, time) in enumerate(
                zip(found, values, _times(features, sentence, found), strict=True), start=1
            )
        )
        for sentence, found, values in zip(
            made.sentence.cpu(), rows.tolist(), scores.tolist(), strict=True
        )
    ]


def _times(features: Features, sentence: Tensor, rows: list[int]) -> list[float | None]:
    """When the frame nearest to a sentence [D] is shown, in the video of each row."""
    if features.frames is None or features.times is None or not rows:
        return [None] * len(rows)
    frames = torch.from_numpy(features.frames[rows]).float()  # [k, T, D]
    mask = torch.from_numpy(features.mask[rows])
    cosines = (frames @ sentence) / frames.norm(dim=-1)
    best = cosines.masked_fill(~mask, -torch.inf).argmax(dim=1)
    times = features.times[rows][range(len(rows)), best.numpy()].tolist()
    return [None if math.isnan(time) else round(time, 3) for time in times]
