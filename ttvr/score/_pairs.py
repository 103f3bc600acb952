"""The best videos by a head that scores pairs: of a whole gallery, or of some candidates each."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from ttvr.heads._base import Head, State
from ttvr.records import TextFeatures, VideoFeatures
from ttvr.score._blocks import (
    MEMORY,
    Sizes,
    at_once,
    check_finite,
    device_of,
    evaluating,
    floats_of,
    joined,
    read,
    scores,
    slices,
    take,
)

MARGIN = 1e-4
"""Of the largest score: scores that differ by less may change places in another block.

Measured differences between blocks of 1 to 96 videos, relative to the largest score: at most 7e-7
of DRL, X-CLIP, X-Pool, TS2-Net, UCoFiA and TC-MGC, as they start.
"""
SPARE = 32
"""Candidates kept beyond k, among them those that may be as good as the last."""
CROSSING = 2
"""All queries with all their candidates are scored in blocks where that is at most so many times
what is asked for; beyond, each query with its own, a call for each."""
DEVICE_CROSSING = 64
CANDIDATES_AT_ONCE = 1024
"""Videos that are candidates of any query, kept prepared for the calls of all of them."""

Exact = Callable[[int, np.ndarray], np.ndarray]


def top_pairs(
    head: Head,
    text: TextFeatures,
    video: VideoFeatures,
    k: int,
    *,
    among: Tensor | None = None,
    scale: float | Tensor = 1.0,
    memory: int = MEMORY,
    block: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The k videos that a head scores best for each text.

    The order is that of the scores of a text and a video alone, equal ones by the lower row: not of
    the block, of k, or of what else is asked. Blocks round otherwise, so scores that could change
    places by it are taken anew, pair by pair. Memory does not grow with the gallery.

    Args:
        head: scores pairs, in evaluation mode; its own mode is restored.
        text: Nq texts, as of `similarity_matrix`, all prepared at once.
        video: N videos, likewise.
        k: how many.
        among: [Nq, M] int64, the rows that each text chooses from, without repeats; None: all.
        scale: exp of the logit scale.
        memory: bytes to get by with, apart from the texts.
        block: texts, and videos, scored at once; None chooses.

    Returns:
        scores [Nq, k] float32, and rows [Nq, k] int64, best first, on the CPU; k is min(k, M or N).

    Raises:
        TtvrError: a score is not finite; names the rows of text and video.
    """
    device = device_of(text)
    scale = torch.as_tensor(scale, dtype=torch.float32, device=device)
    sizes = Sizes.within(memory, head, text, video, device=device, block=block)
    k = min(k, len(video.frames) if among is None else among.shape[1])
    if not k:
        nothing = torch.empty(len(text.sentence), 0)
        return nothing, nothing.long()
    with evaluating(head, device):

        def exact(query: int, rows: np.ndarray) -> np.ndarray:
            one = head.prepare_text(read(text, slice(query, query + 1), device))
            found = [_alone(head, one, read(video, [row], device), scale) for row in rows]
            return np.array(found, dtype=np.float32)

        best = _Best(len(text.sentence), k, exact)
        texts = head.prepare_text(read(text, slice(None), device))
        parts = _all(len(video.frames), sizes.videos)
        if among is not None:
            most = min(CANDIDATES_AT_ONCE, at_once(floats_of(video), memory))
            parts = _asked(among.cpu().numpy(), most)
        for rows, chosen in parts:
            videos = _prepared(head, video, rows, device, sizes.videos)
            if chosen is None or _is_dense(chosen, device):
                made = scores(head, texts, videos, scale=scale, block=sizes.block).cpu()
            else:
                made = _one_by_one(head, texts, videos, chosen, scale)
            check_finite(made, 0, rows)
            if chosen is not None:
                made = made.masked_fill(~chosen, -torch.inf)
            best.offer(made, torch.from_numpy(rows))
        return best.result()


def _alone(head: Head, text: State, video: VideoFeatures, scale: Tensor) -> float:
    return float(head.fuse(head.similarities(text, head.prepare_video(video)), scale))


def _all(count: int, size: int) -> Iterator[tuple[np.ndarray, None]]:
    """Rows of all videos, some at a time, that all queries ask for."""
    for some in slices(count, size):
        yield np.arange(some.start, some.stop), None


def _asked(among: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Rows [n] of candidates, ascending, some at a time, and [Nq, n] bool, who asked for which."""
    wanted = np.unique(among)
    chosen = np.zeros((len(among), len(wanted)), dtype=bool)
    np.put_along_axis(chosen, np.searchsorted(wanted, among), True, axis=1)
    for some in slices(len(wanted), size):
        yield wanted[some], torch.from_numpy(chosen[:, some])


def _prepared(
    head: Head, video: VideoFeatures, rows: np.ndarray, device: torch.device, size: int
) -> State:
    """The state of some videos, prepared so many at a time."""
    parts = [
        head.prepare_video(read(video, rows[some], device)) for some in slices(len(rows), size)
    ]
    return parts[0] if len(parts) == 1 else joined(parts)


def _is_dense(chosen: Tensor, device: torch.device) -> bool:
    crossing = CROSSING if device.type == "cpu" else DEVICE_CROSSING
    return chosen.numel() <= crossing * int(chosen.sum())


def _one_by_one(head: Head, texts: State, videos: State, chosen: Tensor, scale: Tensor) -> Tensor:
    """The scores of what is chosen [Nq, n] bool, query by query, on the CPU; the rest is zero."""
    made = torch.zeros(chosen.shape)
    for query, wanted in enumerate(chosen):
        columns = wanted.nonzero().squeeze(1)
        if len(columns):
            some = take(videos, columns.to(scale.device))
            one = take(texts, slice(query, query + 1))
            made[query, columns] = head.fuse(head.similarities(one, some), scale)[0].float().cpu()
    return made


class _Best:
    """The best rows of each query so far, and those that may be as good.

    Args:
        queries: Nq.
        k: rows wanted of each, at most as many as are offered.
        exact: a query and rows [n] -> their scores [n] float32, whatever they are scored with.
    """

    def __init__(self, queries: int, k: int, exact: Exact) -> None:
        self._k, self._exact = k, exact
        self._margin = torch.zeros(queries)
        self._scores = torch.empty(queries, 0)
        self._rows = torch.empty(queries, 0, dtype=torch.int64)

    def offer(self, scores: Tensor, rows: Tensor) -> None:
        """Take the scores [Nq, n] of rows [n]; minus infinity is none."""
        largest = scores.masked_fill(scores == -torch.inf, 0.0).abs().amax(dim=1)
        self._margin = self._margin.maximum(MARGIN * largest)
        scores = torch.cat([self._scores, scores], dim=1)
        rows = torch.cat([self._rows, rows.expand(len(scores), -1)], dim=1)
        room = self._k + SPARE
        if scores.shape[1] > room:
            last = scores.topk(self._k).values.amin(dim=1)
            near = (scores >= (last - self._margin).unsqueeze(1)).sum(dim=1)
            crowded = (near > room) & (last > -torch.inf)
            for query in crowded.nonzero().squeeze(1).tolist():
                self._settle(query, scores, rows)
            scores, place = scores.topk(room, dim=1)
            rows = rows.gather(1, place)
        self._scores, self._rows = scores, rows

    def result(self) -> tuple[Tensor, Tensor]:
        """Scores and rows [Nq, k], best first."""
        queries = range(len(self._scores))
        found = [self._ordered(query, self._scores, self._rows) for query in queries]
        scores = torch.empty(len(found), self._k)
        rows = torch.empty(len(found), self._k, dtype=torch.int64)
        for query, (one, ids) in enumerate(found):
            scores[query], rows[query] = torch.from_numpy(one), torch.from_numpy(ids)
        return scores, rows

    def _settle(self, query: int, scores: Tensor, rows: Tensor) -> None:
        """Leave a query its k best, where more of them are as good as the last than there is room.

        In place. Such are copies of one video, mostly.
        """
        best, ids = self._ordered(query, scores, rows)
        scores[query], rows[query] = -torch.inf, -1
        scores[query, : self._k] = torch.from_numpy(best)
        rows[query, : self._k] = torch.from_numpy(ids)

    def _ordered(self, query: int, scores: Tensor, rows: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Scores and rows [k] of a query, best first, what is close to another taken anew."""
        order = scores[query].argsort(descending=True)
        found, ids = scores[query, order].numpy(), rows[query, order].numpy()
        margin = float(self._margin[query])
        last = int((found >= found[self._k - 1] - margin).sum())
        found, ids = found[:last], ids[:last].copy()
        is_step = found[:-1] - found[1:] <= margin
        close = np.zeros(last, dtype=bool)
        close[:-1] |= is_step
        close[1:] |= is_step
        if close.any():
            found = found.copy()
            found[close] = self._exact(query, ids[close])
        order = np.lexsort((ids, -found))[: self._k]
        return found[order], ids[order]
