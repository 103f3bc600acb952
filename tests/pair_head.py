"""A small head that scores pairs, for tests of what is around heads."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ttvr import plugins
from ttvr.heads._base import Head
from ttvr.heads._layers import unit

NAME = "pair_head"


class Rows(NamedTuple):
    rows: Tensor
    mask: Tensor


class PairHead(Head):
    """Mean over words of the softmax-weighted cosines with the frames.

    Without `mask` padded words and frames count as published heads have it.
    """

    needs_words: ClassVar[bool] = True

    def __init__(self, *, width=512, frames=12, words=32, mask: bool = False):
        super().__init__(width=width, frames=frames, words=words)
        self.mask = mask
        self.mix = nn.Parameter(torch.eye(width))

    def prepare_text(self, text):
        real = text.mask if self.mask else torch.ones_like(text.mask)
        return Rows(unit(text.words) @ self.mix, real)

    def prepare_video(self, video):
        assert not self.training or torch.is_grad_enabled()
        real = video.mask if self.mask else torch.ones_like(video.mask)
        return Rows(unit(video.frames.masked_fill(~real.unsqueeze(-1), 1.0)), real)

    def similarities(self, text, video):
        cosines = torch.einsum("tid,vjd->tvij", text.rows, video.rows)
        weights = (10 * cosines).masked_fill(~video.mask[None, :, None], -torch.inf).softmax(-1)
        best = (weights * cosines).sum(-1) * text.mask[:, None]
        return (best.sum(-1) / text.mask.sum(1)[:, None]).unsqueeze(0)

    def pair_floats(self):
        return 3 * self.words * self.frames


PLUGIN = PairHead


def install(monkeypatch, plugin=PairHead):
    """Make it a plug-in called `pair_head`, as if its file lay in ttvr/heads/."""
    names, load = plugins.names, plugins.load
    monkeypatch.setattr(
        plugins,
        "names",
        lambda family: sorted([*names(family), *([NAME] if family == "heads" else [])]),
    )
    monkeypatch.setattr(
        plugins,
        "load",
        lambda family, name: plugin if (family, name) == ("heads", NAME) else load(family, name),
    )
    return plugin
