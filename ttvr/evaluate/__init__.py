"""Ground truth and features -> metrics of both directions, with what they were measured on."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ttvr import metrics
from ttvr.errors import TtvrError
from ttvr.evaluate._normalized import (
    ASSUMED_SCALE,
    Fusion,
    Normalization,
    normalized,
    with_other_videos,
)
from ttvr.evaluate._pairs import (
    Pairs,
    absence,
    absent_videos,
    dataset_pairs,
    read_pairs,
    refusal,
    require_kind,
    stored_pairs,
)
from ttvr.evaluate._scores import Encode, needs_model, scores
from ttvr.evaluate._twins import TOLERANCE, preference, tied
from ttvr.files import written
from ttvr.retriever import Retriever
from ttvr.score import MEMORY
from ttvr.store import Features

__all__ = [
    "ASSUMED_SCALE",
    "MISSING",
    "TOLERANCE",
    "Encode",
    "Normalization",
    "Pairs",
    "Result",
    "absence",
    "absent_videos",
    "dataset_pairs",
    "evaluate",
    "needs_model",
    "read_pairs",
    "refusal",
    "save_scores",
    "stored_pairs",
]

MISSING = ("error", "skip", "miss")


class Result(NamedTuple):
    """What was measured, and on what.

    Attributes:
        metrics: of both directions, as `metrics.summary` gives them; where videos have twins also
            "twins", as `preference` gives it.
        protocol: split, sha256, numbers of queries and videos, coverage, ties, the model that
            scored, frames, captions that were cut; how the weights were selected and by which seed
            they were trained, None where nothing tells; the rule that corrected the scores, or
            None.
        sims: [Nt, Nv] float32, rows as the pairs that were scored, columns as the folder's rows;
            of an offline head the cosines of its vectors, of one that scores pairs logits, that is
            at the model's logit scale; not corrected by a rule.
        absent: videos of the ground truth that have no features, each with the reason.
    """

    metrics: dict[str, Any]
    protocol: dict[str, Any]
    sims: np.ndarray
    absent: dict[str, str]


def evaluate(
    features: Features,
    pairs: Pairs,
    *,
    retriever: Retriever | None = None,
    encode: Encode | None = None,
    texts: Features | None = None,
    missing: str = "error",
    ties: str | None = None,
    compat: str | None = None,
    normalize: Normalization | None = None,
    memory: int = MEMORY,
) -> Result:
    """Rank every video for every caption and every caption for every video.

    All videos of the folder are candidates, also those that no caption describes. Where videos have
    twins, a caption's scores with both count as the same if they differ by no more than TOLERANCE,
    logits by the scale times that: what the metrics are taken of, not `sims`.

    Args:
        features: a video folder.
        pairs: the ground truth.
        retriever: the model; not needed where `needs_model` says so.
        encode: captions -> TextFeatures by that model, in order, of `text_length` tokens, with
            words where the head needs them; and how many captions were cut to that length. Not
            needed where `texts` are given.
        texts: a text folder that holds the captions, already encoded.
        missing: what becomes of captions whose video has no features. "error"; "skip" leaves them
            out; "miss" counts them as never found, in both directions.
        ties: as in `metrics.summary`; None is "shared" where videos have twins, else "average".
        compat: as in `metrics.summary`.
        normalize: a rule that corrects scores before they are ranked, each direction's along its
            own axis; twins are tied before it. Not with `compat`.
        memory: bytes that scoring may take, apart from the scores and the texts.

    Raises:
        IncompatibleError: videos, texts, banks and model do not belong together.
        TtvrError: missing videos, a score that is not finite, nothing to measure.
    """
    if compat is not None and normalize is not None:
        raise ValueError("compat gives published numbers, of plain scores: normalize must be None")
    require_kind(features, "video")
    if texts is not None:
        require_kind(texts, "text")
    rows = {video: row for row, video in enumerate(features.ids)}
    absent = absent_videos(features, pairs, rows)
    if absent and missing == "error":
        raise TtvrError(refusal(features, pairs, absent))
    kept = [at for at, video in enumerate(pairs.videos) if video in rows]
    if not kept:
        raise TtvrError(f"none of the {len(absent)} videos of {pairs.name} is in {features.path}")
    captions = [pairs.captions[at] for at in kept]
    tie = partial(tied, twins=pairs.twins, rows=rows)
    if normalize is None:
        sims, truncated = scores(features, captions, retriever, encode, texts, memory=memory)
        unit = Fusion(features, retriever).unit
        by_text, by_video, rule = tie(sims, unit=unit), None, None
    else:
        sims, by_text, by_video, truncated, rule = normalized(
            normalize,
            features,
            captions,
            retriever=retriever,
            encode=encode,
            texts=texts,
            tie=tie,
            memory=memory,
        )
    missed = (len(pairs.videos) - len(kept), len(absent)) if missing == "miss" else (0, 0)
    owner = [rows[pairs.videos[at]] for at in kept]
    ties = ties or ("shared" if pairs.twins else "average")
    measured = metrics.summary(by_text, owner, ties=ties, compat=compat, missed=missed)
    if by_video is not None:
        other = metrics.summary(by_video, owner, ties=ties, missed=missed)
        measured = with_other_videos(measured, other)
    if pairs.twins:
        measured["twins"] = preference(by_text, owner, pairs.twins, rows)
    protocol = _protocol(features, pairs, measured, absent)
    trained = features.meta["provenance"].get("training", {})
    if retriever is not None:
        protocol["model"], trained = retriever.identity(), retriever.trained
    protocol["seed"] = trained.get("seed")
    protocol["selection"] = {k: v for k, v in trained.items() if k != "seed"} or None
    protocol |= {"missing": missing if absent else None, "truncated": truncated, "normalize": rule}
    return Result(measured, protocol, sims, absent)


def save_scores(sims: np.ndarray, path: Path) -> None:
    """Write scores [Nt, Nv] as `.npy`: whole, or not at all."""
    with written(path) as partial, partial.open("wb") as file:
        np.save(file, sims, allow_pickle=False)


def _protocol(
    features: Features, pairs: Pairs, measured: dict[str, Any], absent: dict[str, str]
) -> dict[str, Any]:
    expected = len(set(pairs.videos))
    return {
        "split": pairs.split,
        "sha256": pairs.sha256,
        "captions": measured["t2v"]["queries"],
        "captioned_videos": measured["v2t"]["queries"],
        "candidates": len(features.ids),
        "coverage": {"found": expected - len(absent), "expected": expected},
        "tie_fraction": {way: measured[way]["tie_fraction"] for way in ("t2v", "v2t")},
        "model": features.meta["model"],
        "preprocess": features.meta["preprocess"],
    }
