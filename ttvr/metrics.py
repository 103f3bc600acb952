"""Ranks and recalls of a similarity matrix, in both directions, with ties and NaN defined.

A rank counts the candidates that score higher than the right one and a share of those that score
the same. The published code lists every tied position instead: `compat="clip4clip"` does so too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ttvr.errors import TtvrError

TIES = {"optimistic": 0.0, "average": 0.5, "pessimistic": 1.0, "shared": 0.5}
"""What part of equal scores a rank counts; "shared" recalls are means over all orders of them."""
LEVELS = ("group", "sentence")
RECALLS = (1, 5, 10)

_BLOCK_CELLS = 1 << 18  # a block and its comparisons stay in the processor's cache


class _Problem(NamedTuple):
    """Scores and who belongs to whom.

    Attributes:
        sims: [Nt, Nv] scores.
        owner: [Nt] int64, the video of each caption.
        order: [Nt] int64, captions sorted by their video.
        starts: [Nq] int64, where in `order` each captioned video's captions begin.
        videos: [Nq] int64, the captioned videos, ascending.
    """

    sims: np.ndarray
    owner: np.ndarray
    order: np.ndarray
    starts: np.ndarray
    videos: np.ndarray

    @property
    def single(self) -> bool:
        """No video has two captions."""
        return len(self.videos) == len(self.owner)

    def right(self) -> np.ndarray:
        """[Nt], the score of each caption with its own video."""
        return self.sims[np.arange(len(self.owner)), self.owner]

    def best(self) -> np.ndarray:
        """[Nv], each video's best score with a caption of its own; uncaptioned ones are unread."""
        best = np.zeros(self.sims.shape[1], self.sims.dtype)
        best[self.videos] = np.fmax.reduceat(self.right()[self.order], self.starts)
        return best


class _Counts(NamedTuple):
    """Per query: candidates that score higher, those that score the same, the right score."""

    greater: np.ndarray
    equal: np.ndarray
    right: np.ndarray

    def ranks(self, ties: str) -> np.ndarray:
        return self.greater + TIES[ties] * self.equal

    def chances(self, k: int) -> np.ndarray:
        return ((k - self.greater) / (self.equal + 1)).clip(0, 1)  # to be among the first k


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
    return _text_counts(_checked(_problem(sims, owner))).ranks(ties)


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
    return _video_counts(_checked(_problem(sims, owner)), level).ranks(ties)


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

    Returns:
        "t2v", "v2t" (groups of captions) and, where a video has several captions, "v2t_sentence":
        each the measures in per cent and ranks from 1, "queries" and "tie_fraction" (queries with a
        tie); "SumR", "captions", "videos", "ties", "compat".

    Raises:
        TtvrError, ValueError: as `ranks`. Scores that are not finite pass with `compat`.
    """
    _known(ties)
    if compat not in (None, "clip4clip"):
        raise ValueError(f"compat is None or 'clip4clip', got {compat!r}")
    problem = _problem(sims, owner)
    if compat is None:
        _checked(problem)
    Nt, Nv = problem.sims.shape
    texts, videos = missed
    found: dict[str, Any] = {
        "t2v": _direction(problem, "text", ties, compat, (texts, Nv + videos)),
        "v2t": _direction(problem, "group", ties, compat, (videos, len(problem.videos) + videos)),
    }
    if not problem.single and compat is None:
        found["v2t_sentence"] = _direction(problem, "sentence", ties, None, (videos, Nt + texts))
    found["SumR"] = found["t2v"]["RSum"] + found["v2t"]["RSum"]
    return {**found, "captions": Nt, "videos": Nv, "ties": ties, "compat": compat}


def _direction(
    problem: _Problem, level: str, ties: str, compat: str | None, missed: tuple[int, int]
) -> dict[str, float]:
    counts = _text_counts(problem) if level == "text" else _video_counts(problem, level)
    lower, shared = False, None if ties != "shared" or compat else counts
    if not compat:
        entries = counts.ranks(ties)
    elif level == "text" and not problem.single:
        entries, lower = _sorted_positions(problem), True
    else:
        entries = _tied_positions(counts)
    queries = len(counts.greater) + missed[0]
    tied = float(np.count_nonzero(counts.equal > 0) / queries)
    return _measures(entries, missed, lower, shared) | {"queries": queries, "tie_fraction": tied}


def _measures(
    entries: np.ndarray, missed: tuple[int, int], lower: bool, shared: _Counts | None
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


def _problem(sims: np.ndarray, owner: Sequence[int]) -> _Problem:
    sims, owner = np.asarray(sims), np.asarray(owner)
    if sims.ndim != 2 or owner.shape != sims.shape[:1]:
        raise ValueError(f"sims is [Nt, Nv] and owner [Nt], got {sims.shape} and {owner.shape}")
    if len(owner) == 0 or sims.shape[1] == 0:
        raise TtvrError(f"nothing to rank: {sims.shape[0]} captions and {sims.shape[1]} videos")
    owner = owner.astype(np.int64, casting="same_kind")
    outside = np.flatnonzero((owner < 0) | (owner >= sims.shape[1]))
    if len(outside):
        row = outside[0]
        raise TtvrError(f"caption {row} belongs to video {owner[row]} of {sims.shape[1]}")
    order = np.argsort(owner, kind="stable")
    videos, starts = np.unique(owner[order], return_index=True)
    return _Problem(sims, owner, order, starts, videos)


def _checked(problem: _Problem) -> _Problem:
    """The same problem, if all its scores are finite."""
    for rows in _blocks(problem.sims):
        # A sum is finite only if all of it is; it may also overflow, hence the second look.
        with np.errstate(over="ignore", invalid="ignore"):
            suspect = not np.isfinite(problem.sims[rows].sum())
        if suspect and not np.isfinite(problem.sims[rows]).all():
            row, column = np.argwhere(~np.isfinite(problem.sims[rows]))[0]
            row += rows.start
            raise TtvrError(
                f"the score of row {row} (text) and column {column} (video) is "
                f"{problem.sims[row, column]}: no rank is defined; find out which feature it is"
            )
    return problem


def _blocks(sims: np.ndarray) -> Iterator[slice]:
    step = max(1, _BLOCK_CELLS // sims.shape[1])
    return (slice(at, min(at + step, len(sims))) for at in range(0, len(sims), step))


def _count(flags: np.ndarray, axis: int) -> np.ndarray:
    """How many are true along an axis; as bytes, which is faster than as booleans."""
    return flags.view(np.uint8).sum(axis, dtype=np.uint32).astype(np.int64)


def _text_counts(problem: _Problem) -> _Counts:
    right = problem.right()
    greater, equal = np.empty((2, len(right)), np.int64)
    for rows in _blocks(problem.sims):
        block, own = problem.sims[rows], right[rows, None]
        greater[rows] = _count(block > own, 1)
        equal[rows] = _count(block == own, 1) - 1
    return _Counts(greater, equal, right)


def _video_counts(problem: _Problem, level: str) -> _Counts:
    """Counts of the captioned videos; candidates are groups of captions, or sentences."""
    best = problem.best()
    greater, equal = np.zeros((2, problem.sims.shape[1]), np.int64)
    is_sorted = bool((problem.order[1:] > problem.order[:-1]).all())
    for bounds in _groups(problem):
        rows = slice(bounds[0], bounds[-1])
        block = problem.sims[rows if is_sorted else problem.order[rows]]
        if level == "group" and not problem.single:
            block = np.fmax.reduceat(block, bounds[:-1] - bounds[0], axis=0)
        greater += _count(block > best, 0)
        equal += _count(block == best, 0)
    if level == "group":
        equal -= 1
    else:
        own = problem.right() == best[problem.owner]
        equal -= np.bincount(problem.owner[own], minlength=len(equal))
    kept = problem.videos
    return _Counts(greater[kept], equal[kept], best[kept])


def _groups(problem: _Problem) -> Iterator[np.ndarray]:
    """Bounds in `order` of the captions of some videos that fill about a block, at least one."""
    step = max(1, _BLOCK_CELLS // problem.sims.shape[1])
    bounds, first = np.append(problem.starts, len(problem.owner)), 0
    while first + 1 < len(bounds):
        fitting = int(np.searchsorted(bounds, bounds[first] + step, "right")) - 1
        last = max(first + 1, fitting)
        yield bounds[first : last + 1]
        first = last


def _tied_positions(counts: _Counts) -> np.ndarray:
    """Every position a query's own score takes in the sorted row, all queries pooled."""
    finite = np.isfinite(counts.right)
    first, many = counts.greater[finite], counts.equal[finite] + 1
    within = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
    return (np.repeat(first, many) + within).astype(np.float64)


def _sorted_positions(problem: _Problem) -> np.ndarray:
    """Positions in a descending sort that puts NaN first; the published one leaves ties open."""
    right = problem.right()
    finite = np.isfinite(right)
    positions = np.empty(len(right))
    columns = np.arange(problem.sims.shape[1])
    for rows in _blocks(problem.sims):
        block, own = problem.sims[rows], right[rows, None]
        before = (block == own) & (columns < problem.owner[rows, None])
        positions[rows] = _count((block > own) | np.isnan(block) | before, 1)
    return positions[finite]
