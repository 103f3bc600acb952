"""Writing the feature folder of videos: resumable at any point, rows in the order of the inputs."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ttvr.store import _claim, _journal
from ttvr.store._claimed import ClaimedFolder
from ttvr.store._earlier import Earlier, Outcome, departed
from ttvr.store._files import (
    COMPLETE,
    FORMAT,
    IDS,
    INCOMPLETE,
    ITEMS,
    META,
    PAD,
    json_bytes,
    npy_bytes,
    read_meta,
    write_whole,
)
from ttvr.store._journal import FAILED, STATUSES, Journal, Line, Source
from ttvr.store._shards import Shards

_TOOLS = ("torch", "ffmpeg", "device")  # of `provenance`: other ones change rounding alone
_VARIABLE = ("source",)  # of `model`: where the weights lay says nothing about what they are

log = logging.getLogger(__name__)


class Settings(NamedTuple):
    """What all rows of a folder share; a folder made with others is refused.

    Attributes:
        arrays: names of the arrays: video, mask, times, and frames, patches where wanted.
        dtype: of video, frames and patches: <f2 or <f4.
        shard_rows: rows of every shard but the last.
        model: as `Retriever.identity` gives it.
        preprocess: all that changes pixels or the choice of frames, and its hash.
        provenance: who made it, how, when; its `precision` has to agree too.
        data: the dataset and the split that the videos are; None where they are files.
    """

    arrays: tuple[str, ...]
    dtype: str
    shard_rows: int
    model: Mapping[str, Any]
    preprocess: Mapping[str, Any]
    provenance: Mapping[str, Any]
    data: Mapping[str, str] | None = None

    def shared(self) -> dict[str, Any]:
        """The part of `meta.json` that has to agree."""
        model = {key: value for key, value in self.model.items() if key not in _VARIABLE}
        return {
            "kind": "video",
            "dtype": self.dtype,
            "shard_rows": self.shard_rows,
            "arrays": list(self.arrays),
            "model": model,
            "preprocess": dict(self.preprocess),
            "provenance": {"precision": self.provenance.get("precision")},
            "data": None if self.data is None else dict(self.data),
        }


class Writer(ClaimedFolder):
    """Fills a feature folder, one input after the other, in their order.

    What an earlier run left is used: where its journal is the beginning of `sources` the run goes
    on behind it; else (inputs changed, were added, removed, reordered, or failed ones are to be
    tried again) it is set aside and its rows are taken from there by `kept`. Either way the
    finished folder holds the bytes that a run from nothing would give.

    Args:
        folder: the feature folder; made where there is none.
        sources: all inputs, in the order of their rows.
        settings: see `Settings`.
        pad: [D] float32, what the encoder makes of an all-zero frame.
        resume: use what is there; else a folder that holds features is refused.
        overwrite: remove what is there.
        retry_failed: forget the inputs that failed.
    """

    def __init__(
        self,
        folder: Path,
        sources: Sequence[Source],
        *,
        settings: Settings,
        pad: np.ndarray,
        resume: bool = True,
        overwrite: bool = False,
        retry_failed: bool = False,
    ) -> None:
        super().__init__(
            folder,
            settings.arrays,
            shared=settings.shared(),
            shard_rows=settings.shard_rows,
            resume=resume,
            overwrite=overwrite,
        )
        self._sources, self._settings, self._pad = sources, settings, pad
        self._retry_failed = retry_failed
        self._roots = {root: n for n, root in enumerate(dict.fromkeys(s.root for s in sources))}
        self._counts: Counter[str] = Counter()
        self._journal: Journal | None = None

    def kept(self, source: Source) -> Outcome | None:
        """What an earlier run made of this very input, unchanged since; None where it has to run.

        The arrays of the row are read now, so rows should be asked for when they are needed.
        """
        return self._earlier.get(source)

    def add(self, outcome: Outcome) -> None:
        """Write what became of the next source: its row first, then its line of the journal."""
        source = self._sources[self.done]
        entry = source.described(self._roots) | {"status": outcome.facts["status"]}
        if outcome.row is not None:
            shard, row = self._shards.append(outcome.row)
            entry |= {"shard": shard, "row": row}
        self._journal.append(entry | outcome.facts)
        self._counts[outcome.facts["status"]] += 1
        if outcome.row is not None and self._shards.is_full:
            self._journal.sync()
            self._shards.close_shard()

    def finish(self) -> dict[str, Any]:
        """Close the last shard, write `ids.txt`, mark the folder complete; returns `meta.json`."""
        if self.done != len(self._sources):
            raise ValueError(f"{self.done} of {len(self._sources)} inputs done")
        self._journal.sync()
        self._shards.close_shard()
        lines = _journal.read(self._folder / ITEMS)
        ids = [line.entry["id"] for line in lines if line.entry["status"] != FAILED]
        write_whole(self._folder / IDS, "".join(f"{i}\n" for i in ids).encode())
        meta = self._write_meta(COMPLETE)
        _claim.clear_partial(self._folder)
        return meta

    @property
    def done(self) -> int:
        """Inputs that are in the journal: the first ones of `sources`."""
        return sum(self._counts.values())

    @property
    def counts(self) -> dict[str, int]:
        """Inputs so far by status."""
        return {status: self._counts[status] for status in STATUSES}

    def _take_over(self) -> None:
        """Go on behind what is there, or set it aside."""
        settings, folder = self._settings, self._folder
        departed(folder, self._sources)
        self._go_on()
        self._earlier = Earlier(folder, settings.arrays, retry_failed=self._retry_failed)
        if not (folder / PAD).exists():
            write_whole(folder / PAD, npy_bytes(self._pad.astype(settings.dtype)))

    def _go_on(self) -> None:
        folder = self._folder
        lines = _journal.read(folder / ITEMS)
        if lines:
            meta = read_meta(folder)
            self._shards.check(_rows(lines))
            self._warn_of_other_tools(meta["provenance"])
            if meta["state"] == COMPLETE:
                # Whoever opens the folder from here on must not take it for finished.
                write_whole(folder / META, json_bytes(meta | {"state": INCOMPLETE}))
            lines = _up_to_row(lines, self._shards.resume(_rows(lines)))
            redo = self._retry_failed and any(line.entry["status"] == FAILED for line in lines)
            there = [Source.of(line.entry, meta["roots"]) for line in lines]
            if redo or there != list(self._sources[: len(there)]):
                self._shards.close()
                self._shards = Shards(
                    folder, self._settings.arrays, shard_rows=self._settings.shard_rows
                )
                _claim.set_aside(folder)
                lines = []
        self._counts.update(line.entry["status"] for line in lines)
        self._write_meta(INCOMPLETE)
        self._journal = Journal(folder / ITEMS, keep=lines[-1].end if lines else 0)

    def _holds_all(self, meta: Mapping[str, Any]) -> bool:
        entries = [line.entry for line in _journal.read(self._folder / ITEMS)]
        if self._retry_failed and any(entry["status"] == FAILED for entry in entries):
            return False
        return [Source.of(entry, meta["roots"]) for entry in entries] == list(self._sources)

    def _close(self) -> None:
        if self._journal is not None:
            self._journal.close()
        super()._close()

    def _warn_of_other_tools(self, before: Mapping[str, Any]) -> None:
        now = self._settings.provenance
        for name in _TOOLS:
            if name in before and name in now and before[name] != now[name]:
                log.warning(
                    "%s: what is there was made with %s %s, the rest will be with %s; "
                    "features may differ in the last digits",
                    *(self._folder, name, before[name], now[name]),
                )

    def _write_meta(self, state: str) -> dict[str, Any]:
        settings, shape = self._settings, self._shards.row_shape
        video, mask = shape("video"), shape("mask")
        meta = {
            "format": FORMAT,
            "kind": "video",
            "state": state,
            "count": sum(self._counts.values()) - self._counts[FAILED],
            "dim": video[0] if video else None,
            "frames": mask[0] if mask else None,
            "dtype": settings.dtype,
            "shard_rows": settings.shard_rows,
            "arrays": list(settings.arrays),
            "roots": list(self._roots),
            **({} if settings.data is None else {"data": dict(settings.data)}),
            "model": dict(settings.model),
            "preprocess": dict(settings.preprocess),
            "provenance": dict(settings.provenance),
            "counts": self.counts,
        }
        write_whole(self._folder / META, json_bytes(meta))
        return meta


def _rows(lines: Sequence[Line]) -> int:
    return sum(line.entry["status"] != FAILED for line in lines)


def _up_to_row(lines: Sequence[Line], rows: int) -> list[Line]:
    """The lines before the one of row number `rows`; all, where there is none."""
    kept: list[Line] = []
    for line in lines:
        if line.entry["status"] != FAILED:
            rows -= 1
        if rows < 0:
            break
        kept.append(line)
    return kept
