"""A feature folder as files per video, the layout of clip-video-encode: an array and a JSON each.

`ID.npy` is [T, D], the real frames of a video alone, and `ID.json` says what is known of it. What
all of them share, the order of the rows among it, is in `ttvr-features.json`, so that the way back
gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ttvr.errors import IncompatibleError, UsageError
from ttvr.files import write
from ttvr.store._again import extract_again
from ttvr.store._claim import refuse_differences
from ttvr.store._features import Features
from ttvr.store._files import COMPLETE, INCOMPLETE, ORIGIN, json_bytes, npy_bytes
from ttvr.store._origin import ORIGIN_FORMAT, SHARED, misnamed, paths, read_origin
from ttvr.wording import counted

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
        overwrite: also where it holds an export of other videos, or of other settings.
        on_step: called for each video with whether it was there already.

    Raises:
        UsageError: features of texts; an id that is no name of a file below the folder, or two
            that need one name; or the folder holds something else.
        IncompatibleError: the features have no frames (says how to add them), or the folder holds
            an export of other videos alone, or of features of other settings.
    """
    _require_frames(features)
    if reason := misnamed(features.ids):
        raise UsageError(f"{reason}, nothing was done")
    gone = _gone(features, folder, overwrite=overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    # Listed until they are removed: a run after this one, killed, knows them still.
    begun = _origin(features, INCOMPLETE) | {"ids": [*features.ids, *gone]}
    _write_new(folder / ORIGIN, json_bytes(begun))
    for id in gone:
        for path in paths(folder, id):
            path.unlink(missing_ok=True)
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


def _require_frames(features: Features) -> None:
    if features.kind != "video":
        raise UsageError(f"{features.path} holds texts, no videos to export")
    if features.frames is None:
        again = extract_again(features, lacking=("frames",))
        raise IncompatibleError(
            f"{features.path} holds no frames to export; make it with them: {again}"
        )


def _gone(features: Features, folder: Path, *, overwrite: bool) -> list[str]:
    """The ids of an earlier export into a folder that are no longer among the videos."""
    if not folder.exists():
        return []
    if not (folder / ORIGIN).exists():
        if any(folder.iterdir()):
            raise UsageError(
                f"{folder} is not empty and holds no earlier export, nothing was changed; "
                "pass another -o"
            )
        return []
    found = read_origin(folder)
    wanted = {key: features.meta[key] for key in ("model", "preprocess", "dtype")}
    wanted["model"] = {k: v for k, v in wanted["model"].items() if k not in ("source", "note")}
    if not overwrite:
        refuse_differences(folder, found["meta"], wanted)
    now = set(features.ids)
    gone = [id for id in found["ids"] if id not in now]
    if gone and len(gone) == len(found["ids"]) and not overwrite:
        raise IncompatibleError(
            f"{folder} holds {counted(len(gone), 'other video')}, none of them in {features.path}, "
            "nothing was changed; pass another -o, or --overwrite"
        )
    return gone


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
    if path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content:
        return False
    write(path, lambda file: file.write(content))
    return True
