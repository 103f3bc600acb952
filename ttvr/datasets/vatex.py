"""VATEX: videos of ten seconds, ten English captions each (Wang et al., ICCV 2019)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ttvr.datasets import _files
from ttvr.datasets._annotated import Annotated, Entry

FILES = {
    "train": "vatex_training_v1.0.json",
    "val": "vatex_validation_v1.0.json",
    "test": "vatex_public_test_english_v1.1.json",
}


class Vatex(Annotated):
    """The release; every English caption is a query or an example of its own, counts unchecked.

    Papers on retrieval halve the validation split instead (1,500 videos to choose by and 1,500 to
    test on); put their halves as `val_list.txt` and `test_list.txt` beside the annotations, an id a
    line, and `train_list.txt` likewise: of both halves the captions are then those of validation.

    Files: `vatex_training_v1.0.json`, `vatex_validation_v1.0.json`,
    `vatex_public_test_english_v1.1.json`.
    """

    splits = tuple(FILES)

    def entries(self, root: Path, split: str) -> Iterator[Entry]:
        """As `Annotated.entries`."""
        if not _files.has(root, f"{split}_list.txt"):
            path = _files.find(root, FILES[split])
            yield from (Entry(*pair) for pair in _captions(path).items())
            return
        listed = _files.find(root, f"{split}_list.txt")
        path = _files.find(root, FILES["train" if split == "train" else "val"])
        said = _captions(path)
        for video in _files.ids(listed):
            if video not in said:
                raise _files.wrong(listed, f"{video} is not in {path}")
            yield Entry(video, said[video])


def _captions(path: Path) -> dict[str, list[str]]:
    """The English captions of each video.

    Raises:
        IncompatibleError: a video without id or captions, or one that is there twice.
    """
    videos = _files.read_json(path)
    if not isinstance(videos, list):
        raise _files.wrong(path, "expected a JSON list of videos")
    made: dict[str, list[str]] = {}
    for video in videos:
        facts = video if isinstance(video, dict) else {}
        id, said = facts.get("videoID"), facts.get("enCap")
        if not isinstance(id, str) or not isinstance(said, list):
            raise _files.wrong(path, "a video without videoID or enCap")
        if not all(isinstance(caption, str) for caption in said):
            raise _files.wrong(path, f"a caption of {id} is no text")
        if id in made:
            raise _files.wrong(path, f"{id} is there twice")
        made[id] = said
    return made


PLUGIN = Vatex()
