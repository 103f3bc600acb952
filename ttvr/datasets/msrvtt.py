"""MSR-VTT: 10,000 clips of the web, 20 captions each (Xu et al., CVPR 2016)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ttvr.datasets import _files
from ttvr.datasets._annotated import Annotated, Counts, Entry

DATA = ("MSRVTT_data.json", "MSRVTT_data.json.gz", "MSRVTT_data*.json", "MSRVTT_data*.json.gz")
TRAIN = {"9k": "MSRVTT_train.9k.csv", "7k": "MSRVTT_train.7k.csv"}
TEST = "MSRVTT_JSFUSION_test.csv"
OFFICIAL = {"train": "train", "val": "validate", "test": "test"}
"""Splits of the release, by what `videos` calls them."""

_TEST_1K_A = Counts(1_000, 1_000)
_COUNTS = {
    "9k": {"train": Counts(9_000, 180_000), "test": _TEST_1K_A},
    "7k": {"train": Counts(7_010, 140_200), "test": _TEST_1K_A},
    "full": {
        "train": Counts(6_513, 130_260),
        "val": Counts(497, 9_940),
        "test": Counts(2_990, 59_800),
    },
}


class Msrvtt(Annotated):
    """Three ways to split it; captions of training are 20 per video.

    `9k` (meant by `msrvtt` alone) and `7k` train on 9,000 or 7,010 videos and test on 1k-A,
    JSFusion's 1,000 videos with one caption each. They have no validation split: the official one
    is a part of both training sets. `full` is the release: 6,513, 497 and 2,990 videos with all
    captions.

    Files: `MSRVTT_data.json` (or `.json.gz`), and for 9k and 7k `MSRVTT_train.9k.csv`,
    `MSRVTT_train.7k.csv` and `MSRVTT_JSFUSION_test.csv`.

    Args:
        variant: "9k", "7k" or "full".
    """

    variants = tuple(_COUNTS)

    def __init__(self, variant: str = "9k") -> None:
        self._variant = variant
        self.counts = _COUNTS[variant]
        self.splits = tuple(self.counts)

    @property
    def name(self) -> str:
        """With the variant."""
        return f"msrvtt:{self._variant}"

    def variant(self, name: str) -> Annotated:
        """Split another way: "9k", "7k" or "full".

        Raises:
            UsageError: any other.
        """
        return Msrvtt(name) if name in self.variants else super().variant(name)

    def entries(self, root: Path, split: str) -> Iterator[Entry]:
        """As `Annotated.entries`."""
        if self._variant != "full" and split == "test":
            path = _files.find(root, TEST)
            for video, sentence in _files.table(path, "video_id", "sentence"):
                yield Entry(video, (sentence,))
            return
        path = _files.find(root, *DATA)
        data = _files.read_json(path)
        captions = _captions(path, data)
        if self._variant == "full":
            wanted = [video for video, part in _parts(path, data) if part == OFFICIAL[split]]
        else:
            listed = _files.find(root, TRAIN[self._variant])
            wanted = _files.unique(listed, (video for (video,) in _files.table(listed, "video_id")))
        for video in wanted:
            if video not in captions:
                raise _files.wrong(path, f"no sentences of {video}")
            yield Entry(video, captions[video])


def _captions(path: Path, data: Any) -> dict[str, list[str]]:
    """The captions of each video in the order of the file."""
    made: dict[str, list[str]] = {}
    for sentence in _list(path, data, "sentences"):
        video, caption = (sentence.get(name) for name in ("video_id", "caption"))
        if not isinstance(video, str) or not isinstance(caption, str):
            raise _files.wrong(path, "a sentence without video_id or caption")
        made.setdefault(video, []).append(caption)
    return made


def _parts(path: Path, data: Any) -> Iterator[tuple[str, str]]:
    """Each video and the split that it is of."""
    for video in _list(path, data, "videos"):
        id, part = (video.get(name) for name in ("video_id", "split"))
        if not isinstance(id, str) or part not in OFFICIAL.values():
            raise _files.wrong(path, "a video without video_id or split")
        yield id, part


def _list(path: Path, data: Any, name: str) -> list[dict[str, Any]]:
    found = data.get(name) if isinstance(data, dict) else None
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise _files.wrong(path, f"no list of {name!r} in it")
    return found


PLUGIN = Msrvtt()
