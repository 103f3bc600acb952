"""ActivityNet Captions: paragraphs of videos of up to some minutes (Krishna et al., ICCV 2017)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ttvr.datasets import _files
from ttvr.datasets._annotated import Annotated, Counts, Entry

FILES = {"train": "train.json", "val1": "val_1.json"}
COUNTS = {"train": Counts(10_009, 10_009), "val1": Counts(4_917, 4_917)}
PREFIX = "v_"  # of ids; many copies have files without it


class ActivityNet(Annotated):
    """Paragraph to video: the sentences of a video are one caption; val1 is what is tested on.

    10,009 and 4,917 videos, as many as are described. The published numbers are of those that their
    authors still had, 4,869 of val1 with CenterCLIP's list of files: `datasets.coverage` says how
    many you have. A clip ends at its duration, rounded up.

    Files: `train.json` and `val_1.json`.
    """

    splits = tuple(FILES)
    counts = COUNTS

    def entries(self, root: Path, split: str) -> Iterator[Entry]:
        """As `Annotated.entries`."""
        path = _files.find(root, FILES[split])
        for video, facts in _files.read_object(path).items():
            sentences, seconds = _facts(path, video, facts)
            name = video.removeprefix(PREFIX)
            yield Entry(video, (" ".join(sentences),), name, end=float(math.ceil(seconds)))


def _facts(path: Path, video: str, facts: Any) -> tuple[list[str], float]:
    """The sentences of a video, and its seconds.

    Raises:
        IncompatibleError: one or the other is not there.
    """
    facts = facts if isinstance(facts, dict) else {}
    sentences, seconds = facts.get("sentences"), facts.get("duration")
    if not isinstance(sentences, list) or not all(isinstance(one, str) for one in sentences):
        raise _files.wrong(path, f"no list of sentences of {video}")
    if not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise _files.wrong(path, f"no duration of {video}")
    return sentences, seconds


PLUGIN = ActivityNet()
