"""Words against frames or patches, aggregated in both orders: what X-CLIP and UCoFiA share.

Similarities are laid out with the videos last, [..., N, Nv]: softmax and sums over words, frames or
patches then run over contiguous memory, many videos at a time. They are held `SHARPNESS` times
their cosine until the end, so that no softmax has to multiply them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ttvr.heads._layers import SHARPNESS

Scores = Callable[[Any], Tensor]
"""Of some texts, given as a state, with the videos it was made for: [G, Nt, Nv]."""

_TILE_CPU, _TILE = 1 << 18, 1 << 25
"""Similarities of words with frames held at once: what stays in a core's cache, and elsewhere."""
_FLOOR = -60.0
"""Logarithm of the least weight, the greatest being 1. Sums lose it anyway, and numbers too small
for their format take a processor a hundred times as long."""
_TEXTS = 4
"""Texts at least of a tile, where there are as many: their words make one matrix product."""


def scored_in_tiles(text: Any, video: Any, *, cells: int, score: Callable[[Any], Scores]) -> Tensor:
    """All pairs, a tile of texts and videos at a time.

    Args:
        text: a state of Nt items.
        video: a state of Nv items.
        cells: numbers in the largest tensor per pair.
        score: of some videos, called once for all texts.

    Returns:
        [G, Nt, Nv].
    """
    Nt, Nv = len(text[0]), len(video[0])
    budget = _TILE_CPU if text[0].device.type == "cpu" else _TILE
    videos = max(1, min(Nv, budget // (_TEXTS * cells)))
    texts = max(1, budget // (videos * cells))
    sims = []
    for columns in _slices(Nv, videos):
        score_texts = score(_part(video, columns))
        tiles = [score_texts(_part(text, rows)) for rows in _slices(Nt, texts)]
        sims.append(torch.cat(tiles, dim=1))
    return torch.cat(sims, dim=2)


def token_first(x: Tensor) -> Tensor:
    """Tokens [Nv, N, D] of videos -> [N, Nv, D], contiguous, for `products`."""
    return x.transpose(0, 1).contiguous()


def products(rows: Tensor, tokens: Tensor) -> Tensor:
    """Inner products of rows [..., D] with all tokens [N, Nv, D]: [..., N, Nv], one product."""
    N, Nv, D = tokens.shape
    found = rows.reshape(-1, D) @ tokens.view(N * Nv, D).T
    return found.view(*rows.shape[:-1], N, Nv)


def weights_before_norm(
    x: Tensor, matrix: Tensor, *, twice: bool, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Weights of similarities along the last but one dimension, and what they are to be over.

    X-CLIP's attention over a similarity matrix (Ma et al., 2022, as its code has it): weights
    softmax(x) @ matrix. With `twice` UCoFiA's interactive similarity aggregation: of `SHARPNESS`
    times these another softmax. The division comes last, when there is one number left of N.

    Args:
        x: [..., N, Nv], `SHARPNESS` times the similarities.
        matrix: [N, N]; weights multiply it as row vectors.
        twice: whether the second softmax follows.
        mask: broadcasts to x, bool, True = real: what is masked has no weight; None: all is real.

    Returns:
        [..., N, Nv] and [..., 1, Nv], whose quotient is the weights.
    """
    below = x if mask is None else x.masked_fill(~mask, -torch.inf)
    weights = _exponentials(below - _greatest(below), mask)
    total = weights.sum(dim=-2, keepdim=True)
    weights = _mixed(weights, matrix)
    if twice:
        below = _times(weights, SHARPNESS / total)
        below = below if mask is None else below.masked_fill_(~mask, -torch.inf)
        weights = _exponentials(below.sub_(_greatest(below)), mask)
        total = weights.sum(dim=-2, keepdim=True)
    elif mask is not None:
        weights = weights.masked_fill(~mask, 0.0)
    return weights, total


def aggregate_videos_last(
    x: Tensor, matrix: Tensor, *, twice: bool, mask: Tensor | None = None
) -> Tensor:
    """The weighted sum [..., Nv] of x [..., N, Nv] by its own weights; arguments as there."""
    weights, total = weights_before_norm(x, matrix, twice=twice, mask=mask)
    return _times(weights, x).sum(dim=-2) / total.squeeze(-2)


def aggregate_both_orders(
    x: Tensor,
    *,
    words: tuple[Tensor, Tensor],
    tokens: tuple[Tensor, Tensor],
    twice: bool,
    word_mask: Tensor | None = None,
    token_mask: Tensor | None = None,
) -> Tensor:
    """Mean of aggregating over words, then tokens, and of tokens, then words.

    Args:
        x: [Nt, L, N, Nv], `SHARPNESS` times the similarities of words and visual tokens.
        words: two [L, L]: of words first, of words last.
        tokens: two [N, N]: of tokens first, of tokens last.
        twice: as `weights_before_norm`.
        word_mask: [Nt, L, 1] bool, True = real; None: all is real.
        token_mask: [N, Nv] bool, likewise.

    Returns:
        [Nt, Nv], `SHARPNESS` times the similarity.
    """
    Nt, _, N, Nv = x.shape
    per_token = aggregate_videos_last(x.flatten(2), words[0], twice=twice, mask=word_mask)
    per_word = aggregate_videos_last(x, tokens[0], twice=twice, mask=token_mask)
    over_tokens = aggregate_videos_last(
        per_token.view(Nt, N, Nv), tokens[1], twice=twice, mask=token_mask
    )
    over_words = aggregate_videos_last(per_word, words[1], twice=twice, mask=word_mask)
    return (over_tokens + over_words) / 2


def _mixed(x: Tensor, matrix: Tensor) -> Tensor:
    """A matrix [N, N] transposed times x [..., N, Nv], without `matmul`'s copies of x."""
    rows = x.flatten(0, -3)
    return torch.bmm(matrix.T.expand(len(rows), -1, -1), rows).view_as(x)


def _greatest(x: Tensor) -> Tensor:
    """Of x [..., N, Nv] over N; it cancels in a quotient of sums, and so does its gradient."""
    return x.detach().amax(dim=-2, keepdim=True)


def _exponentials(below: Tensor, mask: Tensor | None) -> Tensor:
    """Exponentials of numbers up to 0, in their place; zero where masked."""
    weights = below.clamp_min_(_FLOOR).exp_()
    return weights if mask is None else weights.masked_fill(~mask, 0.0)


def _times(x: Tensor, factor: Tensor) -> Tensor:
    """The product, in place of x where no gradient needs x: new memory takes longer than it."""
    return x * factor if torch.is_grad_enabled() else x.mul_(factor)


def _part(state: Any, rows: slice) -> Any:
    return type(state)(*(field[rows] for field in state))


def _slices(count: int, size: int) -> Iterator[slice]:
    """The ranges of so many, an empty one of none: what comes of them has a shape."""
    for start in range(0, max(1, count), size):
        yield slice(start, start + size)
