"""DiDeMo: unedited videos of Flickr with described moments (Hendricks et al., ICCV 2017)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ttvr.datasets import _files
from ttvr.datasets._annotated import Annotated, Entry

SECONDS = 31.0  # that are looked at: six moments of five seconds, and what CLIP4Clip adds


class Didemo(Annotated):
    """Paragraph to video: all descriptions of a video, joined, of its first 31 seconds.

    An id is the name of the file without suffix: one video was published under two suffixes now and
    then (29 of val, 33 of test), each with descriptions of its own, and copies have yet others.

    Files: `train_data.json`, `val_data.json`, `test_data.json`. Where `train_list.txt` and its like
    are there too, their videos are taken, in that order: of a name with suffix, as published, the
    descriptions under just that name, else those of all suffixes, as without a list. Published
    numbers differ in which videos their authors still had, so there are no counts to check.
    """

    splits = ("train", "val", "test")

    def entries(self, root: Path, split: str) -> Iterator[Entry]:
        """As `Annotated.entries`."""
        path = _files.find(root, f"{split}_data.json")
        said = _descriptions(path)
        by_id: dict[str, list[str]] = {}
        for name, descriptions in said.items():
            by_id.setdefault(_id(name), []).extend(descriptions)
        listed = [*by_id]
        if _files.has(root, f"{split}_list.txt"):
            listed = _files.ids(_files.find(root, f"{split}_list.txt"))
        for name in listed:
            descriptions = said.get(name) or by_id.get(name)
            if not descriptions:
                raise _files.wrong(path, f"no descriptions of {name}, which is listed")
            yield Entry(_id(name), (" ".join(descriptions),), name, end=SECONDS)


def _descriptions(path: Path) -> dict[str, list[str]]:
    """The descriptions of each file, in order.

    Raises:
        IncompatibleError: a moment without video or description.
    """
    moments, made = _files.read_json(path), {}
    if not isinstance(moments, list):
        raise _files.wrong(path, "expected a JSON list of moments")
    for moment in moments:
        facts = moment if isinstance(moment, dict) else {}
        name, description = facts.get("video"), facts.get("description")
        if not isinstance(name, str) or not name or not isinstance(description, str):
            raise _files.wrong(path, "a moment without video or description")
        made.setdefault(name, []).append(description)
    return made


def _id(name: str) -> str:
    """Without suffix, or with the dot at the end that is all some names have left of theirs."""
    return name.rpartition(".")[0] or name


PLUGIN = Didemo()
