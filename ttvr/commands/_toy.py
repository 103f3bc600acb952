"""What is said when the embedded default is used on videos that it knows nothing of."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable

from ttvr.clip.catalog import TOY

# Clips of the synthetic set, and what ttvr-demo breaks on purpose.
_DRAWN = re.compile(r"(?:.*/)?(?:(?:train|val|test|twins)-\d+r?|broken)", re.DOTALL)

log = logging.getLogger(__name__)


def warn_of_toy(note: str, ids: Iterable[str]) -> None:
    """Say that a model is a toy, unless all videos are drawn clips, which it was made for.

    Their names alone tell: looking into each file would cost more than is at stake.

    Args:
        note: what the weights say of themselves.
        ids: of the videos.
    """
    if note == TOY and not all(_DRAWN.fullmatch(one) for one in ids):
        log.warning(
            "the default model is a toy that was trained on drawn shapes: its results on real "
            "videos mean nothing. For those: ttvr-weights fetch ViT-B/32, then "
            "ttvr-extract ... -w ViT-B/32"
        )
