"""What is said when the embedded default is used on videos that it knows nothing of."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

from ttvr.clip.catalog import TOY

_DRAWN = re.compile(r"train-[0-9]{7}|(?:val|test)-[0-9]{5}|twins-[0-9]{5}r?")
"""Clips of the synthetic set."""
_BROKEN = "broken"
"""What ttvr-demo breaks on purpose, among the others."""

log = logging.getLogger(__name__)


def warn_of_toy(note: str, ids: Iterable[str]) -> None:
    """Say that a model is a toy, unless all videos are drawn clips, which it was made for.

    Their names alone tell: looking into each file would cost more than is at stake.

    Args:
        note: what the weights say of themselves.
        ids: of the videos.
    """
    if note == TOY and not _are_drawn(ids):
        log.warning(
            "ttvr-tiny, the default, is a toy that was trained on drawn shapes: its results on "
            "real videos mean nothing. For those: ttvr-weights fetch ViT-B/32, then "
            "ttvr-extract ... -w ViT-B/32"
        )


def _are_drawn(ids: Iterable[str]) -> bool:
    drawn, broken = set(), set()
    for one in ids:
        folder, _, name = one.rpartition("/")
        if _DRAWN.fullmatch(name):
            drawn.add(folder)
        elif name == _BROKEN:
            broken.add(folder)
        else:
            return False
    return broken <= drawn
