"""Similarities aggregated as the equations read, one number of N: what fast forms have to equal."""

from __future__ import annotations

import torch


def aggregate(x, matrix, *, twice, sharpness=100.0, mask=None):
    """A weighted sum of similarities, the larger ones having the larger weights.

    X-CLIP's attention over a similarity matrix: weights softmax(sharpness x) @ matrix. With `twice`
    UCoFiA's and TC-MGC's interactive similarity aggregation: softmax(sharpness weights) follows.

    Args:
        x: [..., N] similarities.
        matrix: [N, N]; weights multiply it as row vectors.
        twice: whether the second softmax follows.
        sharpness: of both.
        mask: broadcasts to x, bool, True = real; None: all is.

    Returns:
        [...], NaN where nothing is real.
    """
    real = torch.ones_like(x, dtype=torch.bool) if mask is None else mask
    weights = (sharpness * x).masked_fill(~real, -torch.inf).softmax(dim=-1) @ matrix
    if twice:
        weights = (sharpness * weights).masked_fill(~real, -torch.inf).softmax(dim=-1)
    return (x * weights).masked_fill(~real, 0.0).sum(dim=-1)
