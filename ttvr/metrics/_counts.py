"""How many candidates score higher than the right one, or the same: what ranks are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from ttvr.errors import TtvrError

TIES = {"optimistic": 0.0, "average": 0.5, "pessimistic": 1.0, "shared": 0.5}
"""What part of equal scores a rank counts; "shared" recalls are means over all orders of them."""

_BLOCK_CELLS = 1 << 18  # a block and its comparisons stay in the processor's cache


class Problem(NamedTuple):
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


class Counts(NamedTuple):
    """Per query: candidates that score higher, those that score the same, the right score."""

    greater: np.ndarray
    equal: np.ndarray
    right: np.ndarray

    def ranks(self, ties: str) -> np.ndarray:
        """[N] float64, from 0."""
        return self.greater + TIES[ties] * self.equal

    def chances(self, k: int) -> np.ndarray:
        """[N] float64 of 0 to 1, to be among the first k in a random order of equal scores."""
        return ((k - self.greater) / (self.equal + 1)).clip(0, 1)


def problem_of(sims: np.ndarray, owner: Sequence[int]) -> Problem:
    """Scores [Nt, Nv] and the column of each caption's video [Nt], checked but for NaN.

    Raises:
        TtvrError: nothing to rank, or an owner that is no column.
        ValueError: shapes that do not fit.
    """
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
    return Problem(sims, owner, order, starts, videos)


def checked(problem: Problem) -> Problem:
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


def text_counts(problem: Problem) -> Counts:
    """Counts of the captions; candidates are videos."""
    right = problem.right()
    greater, equal = np.empty((2, len(right)), np.int64)
    for rows in _blocks(problem.sims):
        block, own = problem.sims[rows], right[rows, None]
        greater[rows] = _count(block > own, 1)
        equal[rows] = _count(block == own, 1) - 1
    return Counts(greater, equal, right)


def video_counts(problem: Problem, level: str) -> Counts:
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
    return Counts(greater[kept], equal[kept], best[kept])


def _groups(problem: Problem) -> Iterator[np.ndarray]:
    """Bounds in `order` of the captions of some videos that fill about a block, at least one."""
    step = max(1, _BLOCK_CELLS // problem.sims.shape[1])
    bounds, first = np.append(problem.starts, len(problem.owner)), 0
    while first + 1 < len(bounds):
        fitting = int(np.searchsorted(bounds, bounds[first] + step, "right")) - 1
        last = max(first + 1, fitting)
        yield bounds[first : last + 1]
        first = last


def tied_positions(counts: Counts) -> np.ndarray:
    """Every position a query's own score takes in the sorted row, all queries pooled."""
    finite = np.isfinite(counts.right)
    first, many = counts.greater[finite], counts.equal[finite] + 1
    within = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many)
    return (np.repeat(first, many) + within).astype(np.float64)


def sorted_positions(problem: Problem) -> np.ndarray:
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
