"""MSR-VTT: 10,000 clips of the web, 20 captions each (Xu et al., CVPR 2016)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ttvr.datasets import _files
from ttvr.datasets._annotated import Annotated, Counts, Entry

DATA = ("MSRVTT_data.json", "MSRVTT_data.json.gz", "MSRVTT_data*.json", "MSRVTT_data*.json.gz")
TRAIN_VAL = ("train_val_videodatainfo*.json", "train_val_videodatainfo*.json.gz")
TEST_PART = ("test_videodatainfo*.json", "test_videodatainfo*.json.gz")
"""The two files of the release, where `DATA` has all in one."""
YEAR_2017 = ("videodatainfo*.json", "videodatainfo*.json.gz")
"""All in one, too, as for the challenge of 2017: `videodatainfo_2017.json`."""
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

    Files: `MSRVTT_data.json` (or `.json.gz`), or as the release has the same:
    `train_val_videodatainfo.json` and `test_videodatainfo.json`, of which those are read that a
    split needs, or `videodatainfo_2017.json`; the first that is there. And for 9k and 7k
    `MSRVTT_train.9k.csv`, `MSRVTT_train.7k.csv` and `MSRVTT_JSFUSION_test.csv`.

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
        read = [(path, _files.read_json(path)) for path in self._sources(root, split)]
        captions: dict[str, list[str]] = {}
        for path, data in read:
            _add_captions(path, data, captions)
        if self._variant == "full":
            parts = (pair for path, data in read for pair in _parts(path, data))
            wanted = [video for video, part in parts if part == OFFICIAL[split]]
        else:
            listed = _files.find(root, TRAIN[self._variant])
            wanted = _files.unique(listed, (video for (video,) in _files.table(listed, "video_id")))
        for video in wanted:
            if video not in captions:
                raise _files.wrong(read[-1][0], f"no sentences of {video}")
            yield Entry(video, captions[video])

    def _sources(self, root: Path, split: str) -> list[Path]:
        """The files that hold the captions of a split, in one form or another."""
        if _files.has(root, *DATA):
            return [_files.find(root, *DATA)]
        # 9k trains on videos of all three official splits, 7k on those of train and validation.
        needed = (TRAIN_VAL, TEST_PART) if self._variant == "9k" else (TRAIN_VAL,)
        needed = (TEST_PART,) if split == "test" else needed
        there = [half for half in needed if _files.has(root, *half)]
        if there == list(needed):
            return [_files.find(root, *half) for half in needed]
        if there and not _files.has(root, *YEAR_2017):
            absent = next(half for half in needed if half not in there)
            return [_files.find(root, *absent)]
        return [_files.find(root, *YEAR_2017, DATA[0], *(half[0] for half in needed))]


def _add_captions(path: Path, data: Any, made: dict[str, list[str]]) -> None:
    """Add the captions of each video in the order of the file."""
    for sentence in _list(path, data, "sentences"):
        video, caption = (sentence.get(name) for name in ("video_id", "caption"))
        if not isinstance(video, str) or not isinstance(caption, str):
            raise _files.wrong(path, "a sentence without video_id or caption")
        made.setdefault(video, []).append(caption)


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
