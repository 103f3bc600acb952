"""LSMDC: clips of films with audio description (Rohrbach et al., IJCV 2017)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ttvr.datasets import _files
from ttvr.datasets._annotated import Annotated, Counts, Entry

FILES = {
    "train": "LSMDC16_annos_training.csv",
    "val": "LSMDC16_annos_val.csv",
    "test": "LSMDC16_challenge_1000_publictect.csv",
}
COUNTS = {"val": Counts(7_408), "test": Counts(1_000, 1_000)}

_COLUMNS = 6  # clip, start and end aligned, start and end extracted, sentence


class Lsmdc(Annotated):
    """A sentence per clip; test is the public one of 1,000, val has 7,408. Train is not checked.

    Files: `LSMDC16_annos_training.csv`, `LSMDC16_annos_val.csv` and
    `LSMDC16_challenge_1000_publictect.csv`, tab separated without header, so quotation marks are a
    part of the sentence. The times in them are of the film, not of the clip: each clip is a file,
    in a folder of its film or not. A clip that comes twice has two captions.
    """

    splits = tuple(FILES)
    counts = COUNTS

    def entries(self, root: Path, split: str) -> Iterator[Entry]:
        """As `Annotated.entries`."""
        path = _files.find(root, FILES[split])
        made: dict[str, list[str]] = {}
        for number, line in _files.lines(path):
            parts = line.split("\t")
            if len(parts) != _COLUMNS:
                raise _files.wrong(path, f"line {number} has {len(parts)} columns, not {_COLUMNS}")
            said = made.setdefault(parts[0].strip(), [])
            if parts[-1] in said:
                raise _files.wrong(path, f"line {number} is there twice")
            said.append(parts[-1])
        for clip, said in made.items():
            yield Entry(clip, said)


PLUGIN = Lsmdc()
