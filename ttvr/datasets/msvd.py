"""MSVD: 1,970 clips of YouTube, about 40 captions each (Chen and Dolan, ACL 2011)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ttvr.datasets import _files, _unpickle
from ttvr.datasets._annotated import Annotated, Counts, Entry

PICKLE = "raw-captions.pkl"
JSON = ("captions_msvd.json", "raw-captions.json")
TEXT = ("AllVideoDescriptions.txt", "raw-captions.txt")
COUNTS = {"train": Counts(1_200), "val": Counts(100), "test": Counts(670)}

_MOST = 1 << 28  # letters: a pickle may name one text a million times


class Msvd(Annotated):
    """Every caption is a query or an example of its own: 1,200, 100 and 670 videos.

    Files: `train_list.txt`, `val_list.txt`, `test_list.txt`, and the captions of all videos, the
    first of: `raw-captions.pkl` (id -> lists of words), which cannot run code here;
    `captions_msvd.json` or `raw-captions.json` (id -> sentences, or lists of words);
    `AllVideoDescriptions.txt` or `raw-captions.txt` (lines of an id and a sentence, # for remarks).
    """

    splits = ("train", "val", "test")
    counts = COUNTS

    def entries(self, root: Path, split: str) -> Iterator[Entry]:
        """As `Annotated.entries`."""
        listed = _files.find(root, f"{split}_list.txt")
        wanted = _files.ids(listed)
        path = _files.find(root, PICKLE, *JSON, *TEXT)
        captions = _captions(path)
        for video in wanted:
            said = captions.get(video)
            if not said:
                raise _files.wrong(path, f"no captions of {video}, which {listed} lists")
            yield Entry(video, said)


def _captions(path: Path) -> dict[str, list[str]]:
    """The captions of every video.

    Raises:
        IncompatibleError: a file that is not of the form it should have.
    """
    if path.suffix == ".txt":
        made: dict[str, list[str]] = {}
        for number, line in _files.lines(path):
            if line.startswith("#"):
                continue
            video, *words = line.split()
            if not words:
                raise _files.wrong(path, f"line {number} has no sentence")
            made.setdefault(video, []).append(" ".join(words))
        return made
    if path.suffix == ".pkl":
        found = _unpickle.loads(path.read_bytes(), str(path))
        if not isinstance(found, Mapping):
            raise _files.wrong(path, "expected a dictionary of captions")
    else:
        found = _files.read_object(path)
    left, made = _MOST, {}
    for video, sentences in found.items():
        if not isinstance(sentences, list | tuple):
            raise _files.wrong(path, f"the captions of {_text(path, video)} are no list")
        if (name := _text(path, video)) in made:  # as bytes and as a text
            raise _files.wrong(path, f"{name} is there twice")
        made[name] = said = []
        for sentence in sentences:
            said.append(_sentence(path, sentence))
            left -= len(said[-1]) + 1
            if left < 0:
                raise _files.wrong(path, f"more than {_MOST} letters")
    return made


def _sentence(path: Path, given: Any) -> str:
    """A sentence, whole or in words."""
    if isinstance(given, list | tuple):
        words = [_text(path, word) for word in given]
        if sum(map(len, words)) > _MOST:
            raise _files.wrong(path, f"more than {_MOST} letters")
        return " ".join(words)
    return _text(path, given)


def _text(path: Path, given: Any) -> str:
    if isinstance(given, bytes):  # a text of Python 2
        try:
            given = given.decode()
        except UnicodeDecodeError as error:
            raise _files.wrong(path, f"a text that is not UTF-8 ({error.reason})") from error
    if not isinstance(given, str):
        raise _files.wrong(path, f"{type(given).__name__} where a text is due")
    return given


PLUGIN = Msvd()
