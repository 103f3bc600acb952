"""Sentences -> ranked videos of a feature folder."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ttvr.clip import tokenizer
from ttvr.errors import IncompatibleError, TtvrError, UsageError
from ttvr.records import TextFeatures
from ttvr.retriever import Retriever, load_for, require_same
from ttvr.score import top_k
from ttvr.store import Features

QUERIES_AT_ONCE = 64
_WORDS_SHOWN = 8
_LETTERS_SHOWN = 30  # of a word

log = logging.getLogger(__name__)


class Hit(NamedTuple):
    """A video that was found.

    Attributes:
        rank: from 1.
        id: of the video.
        path: of the file or image folder, absolute.
        score: of the head; of meanp the cosine, -1 to 1.
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
    activation: str | None = None,
    device: str | torch.device = "cpu",
) -> list[Hits]:
    """The best videos for each sentence.

    Args:
        queries: sentences.
        features: a feature folder, or its path.
        top: hits per sentence, at most.
        weights: a checkpoint; None takes the one that made the features.
        activation: of the checkpoint's MLPs, where its file does not tell.
        device: where sentences are encoded and scored.

    Returns:
        One entry per sentence, in their order.

    Raises:
        TtvrError: of the folder, which may hold no videos, or of the model; a score that is not
            finite.
        IncompatibleError: the weights did not make these features.
        RequirementError: the weights or the device are not there.
    """
    if isinstance(queries, str):
        raise ValueError(f"queries is a list of sentences, got the sentence {queries!r}")
    if not isinstance(features, Features):
        features = Features.open(features)
    retriever = open_model(features, weights=weights, activation=activation, device=device)
    return list(search(retriever, features, queries, top=top))


def open_model(
    features: Features,
    *,
    weights: str | Path | None = None,
    activation: str | None = None,
    device: str | torch.device = "cpu",
) -> Retriever:
    """The model that made a folder of videos; arguments and errors as `rank`."""
    if features.kind != "video":
        raise IncompatibleError(f"{features.path} holds texts; expected features of videos")
    if not len(features):
        raise TtvrError(f"{features.path} holds no videos: no input gave features")
    made_with = features.meta["model"]
    retriever = load_for(made_with, weights=weights, activation=activation, device=device)
    require_same(
        made_with, retriever.identity(), "space", folder=features.path, what="queries are encoded"
    )
    if not retriever.head.offline:
        raise UsageError(
            "ranking takes heads that give one vector per video; "
            f"{retriever.head_name} scores pairs"
        )
    return retriever


def search(
    retriever: Retriever,
    features: Features,
    queries: Sequence[str],
    *,
    top: int = 10,
    ids: Sequence[str | None] | None = None,
    on_long: str = "truncate",
) -> Iterator[Hits]:
    """The best videos for each sentence, handed out as soon as they are known.

    Args:
        retriever: from `open_model`.
        features: a folder of videos.
        queries: sentences.
        top: hits per sentence, at most.
        ids: names of the sentences.
        on_long: what happens to sentences of more tokens than the model has positions: "truncate"
            (the end-of-text token is kept; their number is logged) or "error".

    Returns:
        An iterator over one entry per sentence, in their order.

    Raises:
        UsageError: a sentence is too long, and that is an error.
        TtvrError: a score is not finite.
    """
    names = [None] * len(queries) if ids is None else ids
    tokenizer.count_long(
        queries, most=retriever.clip.context_length, on_long=on_long, what="queries"
    )
    report_unknown(retriever, queries, what="queries")

    def find() -> Iterator[Hits]:
        for start in range(0, len(queries), QUERIES_AT_ONCE):
            texts = list(queries[start : start + QUERIES_AT_ONCE])
            found = _find(retriever, features, texts, top)
            for number, (text, hits) in enumerate(zip(texts, found, strict=True), start=start):
                yield Hits(number, names[number], text, hits)

    return find()


def unknown_words(retriever: Retriever, texts: Iterable[str]) -> list[str]:
    """Words that the model was never trained on, lowercase, each once, as they first come.

    A word is unknown if the row of any of its tokens is zero: the model sees that something
    stands there, but not what. Punctuation does not count; `tokenizer.words` says what a word is.
    """
    unseen = set(retriever.clip.unseen_tokens().tolist())
    if not unseen:
        return []
    pairs = (pair for text in texts for pair in tokenizer.words(text))
    return list(dict.fromkeys(word for word, ids in pairs if not unseen.isdisjoint(ids)))


def report_unknown(retriever: Retriever, texts: Iterable[str], *, what: str) -> None:
    """Log the words of the texts that the model was never trained on, in one line if there are any.

    Args:
        retriever: the model.
        texts: sentences.
        what: what the texts are, for the message.
    """
    found = unknown_words(retriever, texts)
    if not found:
        return
    shown = [_visible(word) for word in found[:_WORDS_SHOWN]]
    rest = f" and {len(found) - len(shown)} more" if len(found) > len(shown) else ""
    log.warning(
        "words of the %s that the model never saw and that mean nothing to it: %s%s",
        what,
        ", ".join(shown),
        rest,
    )


@torch.inference_mode()
def encode_texts(
    retriever: Retriever,
    texts: Sequence[str],
    *,
    batch_size: int = 64,
    words: bool = False,
    length: int | None = None,
) -> TextFeatures:
    """Encode texts, those of like length together.

    Attention is causal, so a batch need not be longer than its longest text: that changes nothing
    but the rounding (1e-6). Features at padded positions are only there if they are computed.

    Args:
        retriever: the model.
        texts: N sentences; cut to `length` tokens where longer, end-of-text kept.
        batch_size: sentences per forward pass.
        words: give the feature at every position, padded ones included.
        length: L, tokens per text; by default all that the model has positions for.

    Returns:
        In the order of `texts`, float32: sentence [N, D]; words [N, L, D] and mask [N, L], or
        [N, 0, D] and [N, 0] without `words`.
    """
    length = length or retriever.clip.context_length
    N, D, L = len(texts), retriever.clip.width, length if words else 0
    ids = tokenizer.tokenize(texts, length)
    ends = ids.argmax(dim=1)  # [N], end-of-text has the highest id
    sentence = torch.empty(N, D, device=retriever.device)
    every = torch.empty(N, L, D, device=retriever.device)
    mask = torch.empty(N, L, dtype=torch.bool, device=retriever.device)
    for some in ends.argsort(stable=True).split(batch_size) if N else ():
        longest = length if words else int(ends[some[-1]]) + 1
        made = retriever.encode_text(ids[some, :longest])
        sentence[some] = made.sentence.float()
        if words:
            every[some], mask[some] = made.words.float(), made.mask
    return TextFeatures(sentence, every, mask)


def _visible(word: str) -> str:
    """A word that is no longer than a line bears, with what has no shape of its own spelt out."""
    cut = word if len(word) <= _LETTERS_SHOWN else f"{word[:_LETTERS_SHOWN]}..."
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in cut
    )


@torch.inference_mode()
def _find(
    retriever: Retriever, features: Features, texts: list[str], top: int
) -> list[tuple[Hit, ...]]:
    """The hits of each text."""
    made = encode_texts(retriever, texts)
    scores, rows = top_k(retriever.head.vector_text(made), features.video, top)
    scores = scores * retriever.head.vector_gain
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
