"""How far R@1 may be from what it would be on other videos of the same kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

INTERVAL: Mapping[str, int | str] = MappingProxyType(
    {"per_cent": 95, "method": "percentile bootstrap over videos", "resamples": 10_000, "seed": 0}
)
"""Of what kind the interval of R@1 is."""


def recall_interval(hits: Sequence[float], group: Sequence[int]) -> tuple[float, float]:
    """The 95 % percentile interval of a recall, by the bootstrap (Efron and Tibshirani, 1993).

    Whole videos are drawn with replacement, as many as there are, so captions of one video stay
    together: they are hit or missed together more often than by chance, and drawn one by one they
    would make the interval too narrow. Videos with the same numbers of hits and of queries are
    alike to the draw, so what is drawn is how many there are of each kind: the same distribution,
    at a cost that does not grow with the videos.

    Args:
        hits: [N] of each query: 1 found, 0 not found, or between them the chance to be found.
        group: [N], the video of each query, by any number.

    Returns:
        The ends, in per cent. The generator is NumPy's default with the seed in `INTERVAL`, so the
        same hits give the same ends.

    Raises:
        ValueError: no query, or shapes that differ.
    """
    hits, group = np.asarray(hits, np.float64), np.asarray(group)
    if hits.ndim != 1 or hits.shape != group.shape or not len(hits):
        raise ValueError(f"hits and group are [N], N > 0, got {hits.shape} and {group.shape}")
    _, place = np.unique(group, return_inverse=True)
    sums = np.stack([np.bincount(place, hits), np.bincount(place)], axis=1)  # [Nv, 2]
    kinds, count = np.unique(sums, axis=0, return_counts=True)
    generator = np.random.default_rng(INTERVAL["seed"])
    drawn = generator.multinomial(count.sum(), count / count.sum(), size=INTERVAL["resamples"])
    found, asked = (drawn @ kinds).T
    tail = (100 - INTERVAL["per_cent"]) / 200
    # An end is a value that was drawn: between two of a recall of few queries lies nothing.
    low, high = np.quantile(100 * found / asked, (tail, 1 - tail), method="inverted_cdf")
    return float(low), float(high)
