"""A feature folder as files per video, the layout of clip-video-encode: an array and a JSON each.

`ID.npy` is [T, D], the real frames of a video alone, and `ID.json` says what is known of it. What
all of them share, the order of the rows among it, is in `ttvr-features.json`, so that the way back
gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ttvr.errors import IncompatibleError, TtvrError, UsageError
from ttvr.files import write
from ttvr.store._again import extract_again
from ttvr.store._claim import differences
from ttvr.store._features import Features
from ttvr.store._files import COMPLETE, INCOMPLETE, json_bytes, npy_bytes

ORIGIN = "ttvr-features.json"
"""Beside the videos: what all of them share."""
ORIGIN_FORMAT = "ttvr-per-video/1"
SHARED = ("dim", "frames", "dtype", "shard_rows", "model", "preprocess", "provenance")
"""What of `meta.json` a folder that is made of the files takes over."""
_AT_ONCE = 256  # rows in memory
_PLACE = ("root", "shard", "row", "file", "path", "video")  # of a journal line


class Exported(NamedTuple):
    """How many videos were written, were there, and were removed as no longer among them."""

    written: int
    kept: int
    removed: int


def export_per_video(
    features: Features,
    folder: Path,
    *,
    overwrite: bool = False,
    on_step: Callable[[bool], None] = lambda kept: None,
) -> Exported:
    """Write two files per video. Run again it goes on; files that are as they should be are kept.

    Args:
        features: of videos.
        folder: the output; made where there is none.
        overwrite: also where it holds an export of features of other settings.
        on_step: called for each video with whether it was there already.

    Raises:
        UsageError: features of texts; an id that is no name of a file below the folder, or two
            that need one name; or the folder holds something else.
        IncompatibleError: the features have no frames (says how to add them), or the folder holds
            an export of features of other settings.
    """
    _require_frames(features)
    _require_names(features.ids)
    before = _before(features, folder, overwrite=overwrite)
    gone = before - set(features.ids)
    for id in gone:
        for path in paths(folder, id):
            path.unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    _write_new(folder / ORIGIN, json_bytes(_origin(features, INCOMPLETE)))
    kept = 0
    for id, npy, text in _files(features):
        array, described = paths(folder, id)
        array.parent.mkdir(parents=True, exist_ok=True)
        # The array first: who finds the JSON finds an array that it is of.
        fresh = [_write_new(array, npy), _write_new(described, text)]
        kept += not any(fresh)
        on_step(not any(fresh))
    _write_new(folder / ORIGIN, json_bytes(_origin(features, COMPLETE)))
    return Exported(len(features) - kept, kept, len(gone))


def paths(folder: Path, id: str) -> tuple[Path, Path]:
    """The array and the JSON of a video."""
    return folder / f"{id}.npy", folder / f"{id}.json"


def _require_frames(features: Features) -> None:
    if features.kind != "video":
        raise UsageError(f"{features.path} holds texts, no videos to export")
    if features.frames is None:
        again = extract_again(features, lacking=("frames",))
        raise IncompatibleError(
            f"{features.path} holds no frames to export; make it with them: {again}"
        )


def _require_names(ids: Sequence[str]) -> None:
    """Check that every id names files of its own below the folder.

    Raises:
        UsageError: one does not.
    """
    files = {ORIGIN: None} | {f"{id}{suffix}": id for id in ids for suffix in (".npy", ".json")}
    for id in ids:
        parts = id.split("/")
        if {"", ".", ".."} & set(parts) or "\0" in id:
            raise UsageError(f"the id {id!r} is no name of a file below a folder, nothing was done")
        if f"{id}.json" == ORIGIN:
            raise UsageError(f"the id {id!r} would take the place of {ORIGIN}, nothing was done")
        for end in range(1, len(parts)):
            if (above := "/".join(parts[:end])) in files:
                raise UsageError(
                    f"the id {id!r} needs a folder where the file {above} goes, nothing was done"
                )


def _before(features: Features, folder: Path, *, overwrite: bool) -> set[str]:
    """The ids of an earlier export into a folder."""
    if not folder.exists():
        return set()
    if not (folder / ORIGIN).exists():
        if any(folder.iterdir()):
            raise UsageError(
                f"{folder} is not empty and holds no earlier export, nothing was changed; "
                "pass another -o"
            )
        return set()
    found = read_origin(folder)
    wanted = {key: features.meta[key] for key in ("model", "preprocess", "dtype")}
    wanted["model"] = {k: v for k, v in wanted["model"].items() if k not in ("source", "note")}
    differing = differences(found["meta"], wanted)
    if differing and not overwrite:
        listed = "; ".join(f"{key} is {a!r}, now {b!r}" for key, a, b in differing)
        raise IncompatibleError(
            f"{folder} holds features of other settings, nothing was changed: {listed}; pass "
            "another -o, or --overwrite"
        )
    return set(found["ids"])


def read_origin(folder: Path) -> dict[str, Any]:
    """What `ttvr-features.json` of a folder says: format, state, meta, pad, ids.

    Raises:
        TtvrError: it is not JSON, or of another format.
    """
    path = folder / ORIGIN
    try:
        found = json.loads(path.read_bytes())
        is_known = found["format"] == ORIGIN_FORMAT
        is_whole = {"state", "meta", "pad", "ids"} <= found.keys() and set(SHARED) <= set(
            found["meta"]
        )
    except (ValueError, TypeError, KeyError) as error:
        raise TtvrError(f"{path} is damaged ({error}); export again") from error
    if not (is_known and is_whole):
        raise TtvrError(f"{path}: not {ORIGIN_FORMAT}, which this version of ttvr reads")
    return found


def _origin(features: Features, state: str) -> dict[str, Any]:
    names = (*SHARED, *(["data"] if "data" in features.meta else []))
    return {
        "format": ORIGIN_FORMAT,
        "state": state,
        "meta": {name: features.meta[name] for name in names},
        "pad": _numbers(features.pad),
        "ids": features.ids,
    }


def _files(features: Features) -> Iterator[tuple[str, bytes, bytes]]:
    """Each video's id and the content of its two files."""
    for start in range(0, len(features), _AT_ONCE):
        rows = slice(start, start + _AT_ONCE)
        block = (features.frames[rows], features.mask[rows], features.times[rows])
        vectors, items = features.video[rows], features.items[rows]
        for frames, real, times, vector, item in zip(*block, vectors, items, strict=True):
            npy = npy_bytes(frames[real])
            facts = {key: value for key, value in item.items() if key not in _PLACE}
            seconds = [None if math.isnan(time) else float(time) for time in times[real]]
            described = {
                "id": item["id"],
                "path": item["file"],
                **facts,
                "times": seconds,
                "vector": _numbers(vector),
                "npy_sha256": hashlib.sha256(npy).hexdigest(),
            }
            yield item["id"], npy, (json.dumps(described, ensure_ascii=False) + "\n").encode()


def _numbers(vector: np.ndarray) -> list[float]:
    """The shortest decimals that give the same numbers of the same dtype."""
    return [float(str(number)) for number in vector]


def _write_new(path: Path, content: bytes) -> bool:
    """Write a file whole or not at all, unless that is what it holds; whether it was written."""
    if path.is_file() and path.read_bytes() == content:
        return False
    write(path, lambda file: file.write(content))
    return True
