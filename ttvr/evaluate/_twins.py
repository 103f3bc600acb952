"""Whether captions tell a video from its twin, which differs from it in a single respect.

A gallery of a few hundred clips is all but solved by appearance. Twins are alike in all but, say,
the order of their frames, so they ask for that alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ttvr.records import Twin

TOLERANCE = 1e-4
"""Cosines of a video and its twin that differ by no more are the same, and logits by their scale.

What sees no difference gives both the same vector but for rounding: a mean of the same frames is
summed in another order, which moves a component now and then to its neighbor in float16. Of 420
clips and their reversals, 64 components each, drawn losslessly and encoded by random weights, no
two vectors were further apart than 6.1e-5. As .mp4 files they were 2e-3 apart: what compression
leaves is a difference, for it can be seen.
"""


def tied(
    sims: np.ndarray, twins: Mapping[str, Twin], rows: Mapping[str, int], *, unit: float = 1.0
) -> np.ndarray:
    """The same scores, but those of a video and its twin that differ by rounding tie exactly.

    Args:
        sims: [Nt, Nv].
        twins: of a video, its twin, whose twin it is.
        rows: of a video, its column; those without one are passed over.
        unit: what a cosine is multiplied by in the scores.

    Returns:
        [Nt, Nv]; scores that tie are the mean of both.
    """
    pairs = {
        (min(rows[one], rows[twin.id]), max(rows[one], rows[twin.id]))
        for one, twin in twins.items()
        if one in rows and twin.id in rows
    }
    if not pairs:
        return sims
    left, right = np.array(sorted(pairs)).T
    made = sims.copy()
    # Where a score is not finite there is no difference to speak of, and it stays.
    with np.errstate(invalid="ignore"):
        is_same = np.abs(sims[:, left] - sims[:, right]) <= unit * TOLERANCE
    mean = (sims[:, left] + sims[:, right]) / 2
    made[:, left] = np.where(is_same, mean, sims[:, left])
    made[:, right] = np.where(is_same, mean, sims[:, right])
    return made


def preference(
    sims: np.ndarray,
    owner: Sequence[int],
    twins: Mapping[str, Twin],
    rows: Mapping[str, int],
) -> dict[str, Any]:
    """How many captions score higher with their video than with its twin; ties count half.

    Args:
        sims: [Nt, Nv] of `tied`.
        owner: [Nt], the column of each caption's video.
        twins: of a video, its twin.
        rows: of a video, its column. Captions of which one of the two is missing are left out.

    Returns:
        "queries"; "accuracy" in per cent, 50 by chance and where all scores tie; "tie_fraction";
        "tolerance", of cosines; and "kinds": of each kind of difference, by name, the first three.
        Without queries accuracy and tie fraction are None.
    """
    columns = {rows[one]: twin for one, twin in twins.items() if one in rows and twin.id in rows}
    asked = [(at, column) for at, column in enumerate(owner) if column in columns]
    kinds = np.array([columns[column].kind for _, column in asked], dtype=object)
    others = [rows[columns[column].id] for _, column in asked]
    at, column = np.array(asked, dtype=int).reshape(-1, 2).T
    own, other = sims[at, column], sims[at, others]
    shares, is_tie = (own > other) + 0.5 * (own == other), own == other
    found = {
        str(kind): _share(shares[kinds == kind], is_tie[kinds == kind]) for kind in sorted({*kinds})
    }
    return {**_share(shares, is_tie), "tolerance": TOLERANCE, "kinds": found}


def _share(shares: np.ndarray, is_tie: np.ndarray) -> dict[str, Any]:
    empty = len(shares) == 0
    return {
        "queries": len(shares),
        "accuracy": None if empty else 100 * float(shares.mean()),
        "tie_fraction": None if empty else float(is_tie.mean()),
    }
