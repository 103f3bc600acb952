"""Datasets: one file each, found by listing this folder.

`load` knows them by name, variants included; `coverage` tells which of their videos are there.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ttvr import plugins
from ttvr.datasets._coverage import Coverage, coverage, require_all
from ttvr.datasets._frame_cache import cached, frames_of

if TYPE_CHECKING:
    from ttvr.datasets._base import Dataset

__all__ = ["Coverage", "cached", "coverage", "frames_of", "load", "require_all"]

log = logging.getLogger(__name__)


def load(name: str) -> Dataset:
    """A dataset by name, as `--data` takes it: `msvd`, or `msrvtt:7k` for a variant.

    Without a variant, the first of those that a dataset has; which one is logged.

    Raises:
        UsageError: no such dataset or variant; the message lists those there are.
    """
    stem, colon, variant = name.partition(":")
    found = plugins.load("datasets", stem)
    if colon:
        return found.variant(variant)
    if found.variants:
        log.info("%s means %s", name, found.name)
    return found
