"""Ranks and recalls of a similarity matrix, in both directions, with ties and NaN defined.

A rank counts the candidates that score higher than the right one and a share of those that score
the same. The published code lists every tied position instead: `compat="clip4clip"` does so too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ttvr.errors import TtvrError
from ttvr.metrics._counts import (
    TIES,
    Counts,
    Problem,
    checked,
    problem_of,
    sorted_positions,
    text_counts,
    tied_positions,
    video_counts,
)
from ttvr.metrics._interval import INTERVAL, recall_interval

__all__ = [
    "INTERVAL",
    "LEVELS",
    "RECALLS",
    "TIES",
    "ranks",
    "recall_interval",
    "summary",
    "video_ranks",
]

LEVELS = ("group", "sentence")
RECALLS = (1, 5, 10)


def ranks(sims: np.ndarray, owner: Sequence[int], ties: str = "average") -> np.ndarray:
    """Text to video: the rank of each caption's own video among all videos.

    Args:
        sims: [Nt, Nv] scores, higher is better; any real dtype, compared as it is.
        owner: [Nt], the column of each caption's video.
        ties: one of `TIES`: equal scores count half, not, or in full.

    Returns:
        [Nt] float64, 0 is first.

    Raises:
        TtvrError: a score that is not finite, or an owner that is no column.
        ValueError: shapes that do not fit, or an unknown tie policy.
    """
    _known(ties)
    return text_counts(checked(problem_of(sims, owner))).ranks(ties)


def video_ranks(
    sims: np.ndarray, owner: Sequence[int], *, ties: str = "average", level: str = "group"
) -> np.ndarray:
    """Video to text: the rank of each captioned video's own captions.

    Args:
        sims: [Nt, Nv] scores, higher is better.
        owner: [Nt], the column of each caption's video.
        ties: as in `ranks`; a video's own captions never count against it.
        level: "group" ranks the videos' groups of captions, each by its best caption (the published
            protocol of MSVD); "sentence" ranks the best own caption among all captions (stricter).

    Returns:
        [Nq] float64, 0 is first; one per captioned video, in the order of columns.

    Raises:
        TtvrError, ValueError: as `ranks`.
    """
    _known(ties)
    if level not in LEVELS:
        raise ValueError(f"level is one of {', '.join(LEVELS)}, got {level!r}")
    return video_counts(checked(problem_of(sims, owner)), level).ranks(ties)


def summary(
    sims: np.ndarray,
    owner: Sequence[int],
    *,
    ties: str = "average",
    compat: str | None = None,
    missed: tuple[int, int] = (0, 0),
) -> dict[str, Any]:
    """R@1, R@5, R@10, MdR, MnR and RSum (their sum) of both directions, and SumR of the two.

    Args:
        sims: [Nt, Nv] scores, higher is better.
        owner: [Nt], the column of each caption's video. Videos without a caption are candidates
            for texts, and no queries.
        ties: as in `ranks`; "shared" shares out recalls too, as `TIES` says.
        compat: "clip4clip" gives what the published code prints: every tied position is an entry,
            queries whose own score is not finite are dropped, and with several captions per video
            the median of text to video is the lower one.
        missed: captions and videos that should have been queries and could not be scored: they
            never count as found, and take the last rank in MdR and MnR. They are no candidates.
            The interval takes these captions to be spread evenly over these videos.

    Returns:
        "t2v", "v2t" (groups of captions) and, where a video has several captions, "v2t_sentence":
        each the measures in per cent and ranks from 1, "queries", "tie_fraction" (queries with a
        tie) and "R@1_interval", as `recall_interval` gives it, None with `compat`, whose entries
        are no queries; "SumR", "captions", "videos", "ties", "compat".

    Raises:
        TtvrError, ValueError: as `ranks`. Scores that are not finite pass with `compat`.
    """
    _known(ties)
    if compat not in (None, "clip4clip"):
        raise ValueError(f"compat is None or 'clip4clip', got {compat!r}")
    problem = problem_of(sims, owner)
    if compat is None:
        checked(problem)
    Nt, Nv = problem.sims.shape
    texts, videos = missed
    found: dict[str, Any] = {
        "t2v": _direction(problem, "text", ties, compat, (texts, videos, Nv + videos)),
        "v2t": _direction(
            problem, "group", ties, compat, (videos, videos, len(problem.videos) + videos)
        ),
    }
    if not problem.single and compat is None:
        found["v2t_sentence"] = _direction(
            problem, "sentence", ties, None, (videos, videos, Nt + texts)
        )
    found["SumR"] = found["t2v"]["RSum"] + found["v2t"]["RSum"]
    return {**found, "captions": Nt, "videos": Nv, "ties": ties, "compat": compat}


def _direction(
    problem: Problem, level: str, ties: str, compat: str | None, missed: tuple[int, int, int]
) -> dict[str, Any]:
    """The measures; `missed` are queries, the videos they are of, and candidates with them."""
    absent, videos, candidates = missed
    counts = text_counts(problem) if level == "text" else video_counts(problem, level)
    lower, shared = False, None if ties != "shared" or compat else counts
    if not compat:
        entries = counts.ranks(ties)
    elif level == "text" and not problem.single:
        entries, lower = sorted_positions(problem), True
    else:
        entries = tied_positions(counts)
    queries = len(counts.greater) + absent
    measured: dict[str, Any] = _measures(entries, (absent, candidates), lower, shared)
    measured["queries"] = queries
    measured["tie_fraction"] = float(np.count_nonzero(counts.equal > 0) / queries)
    interval = None
    if not compat:
        hits = entries < 1 if shared is None else shared.chances(1)
        group = problem.owner if level == "text" else problem.videos
        others = problem.sims.shape[1] + np.arange(absent) % max(videos, 1)
        interval = recall_interval(np.append(hits, np.zeros(absent)), np.append(group, others))
    measured["R@1_interval"] = None if interval is None else list(interval)
    return measured


def _measures(
    entries: np.ndarray, missed: tuple[int, int], lower: bool, shared: Counts | None
) -> dict[str, float]:
    """The measures of ranks from 0; `missed` queries take the last of so many ranks."""
    absent, candidates = missed
    if len(entries) == 0:
        raise TtvrError("no query with a finite score: there is nothing to measure")
    everyone = np.sort(np.concatenate([entries, np.full(absent, candidates - 1.0)]))
    hits = {k: shared.chances(k) if shared else entries < k for k in RECALLS}
    recalls = {f"R@{k}": 100.0 * hits[k].sum() / len(everyone) for k in RECALLS}
    middle = everyone[(len(everyone) - 1) // 2] if lower else np.median(everyone)
    recalls["RSum"] = sum(recalls.values())
    found = {**recalls, "MdR": middle + 1, "MnR": everyone.mean() + 1}
    return {name: float(value) for name, value in found.items()}


def _known(ties: str) -> None:
    if ties not in TIES:
        raise ValueError(f"ties is one of {', '.join(TIES)}, got {ties!r}")
