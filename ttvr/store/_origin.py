"""What `ttvr-features.json` says, beside files per video: all that the videos share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ttvr.errors import TtvrError
from ttvr.store._files import DTYPES, ORIGIN

ORIGIN_FORMAT = "ttvr-per-video/1"
SHARED = ("dim", "frames", "dtype", "shard_rows", "model", "preprocess", "provenance")
"""What of `meta.json` a folder that is made of the files takes over."""
MOST_FRAMES = 2**20
"""Of a row, at most: what is far beyond any video is a slip, and no memory holds it."""
_SIZES = {"dim": 2**20, "frames": MOST_FRAMES, "shard_rows": 2**40}
"""Which sizes there are, and what each is at most."""
_OBJECTS = ("model", "preprocess", "provenance")


def paths(folder: Path, id: str) -> tuple[Path, Path]:
    """The array and the JSON of a video."""
    return folder / f"{id}.npy", folder / f"{id}.json"


def is_line(text: str) -> bool:
    """Whether a text is one line of UTF-8; what is not is in names as lone surrogates."""
    return "\n" not in text and text == text.encode(errors="replace").decode()


def misnamed(ids: Sequence[str]) -> str | None:
    """Why ids do not all name files of their own below a folder; None where they do."""
    files = {ORIGIN: None} | {f"{id}{suffix}": id for id in ids for suffix in (".npy", ".json")}
    for id in ids:
        parts = id.split("/")
        if {"", ".", ".."} & set(parts) or "\0" in id or not is_line(id):
            return f"the id {id!r} is no name of a file below a folder"
        if f"{id}.json" == ORIGIN:
            return f"the id {id!r} would take the place of {ORIGIN}"
        for end in range(1, len(parts)):
            if (above := "/".join(parts[:end])) in files:
                return f"the id {id!r} needs a folder where the file {above} goes"
    return None


def read_origin(folder: Path) -> dict[str, Any]:
    """What `ttvr-features.json` of a folder says: format, state, meta, pad, ids.

    Its ids are checked as those that are written: files are read and removed by them.

    Raises:
        TtvrError: it is not JSON, of another format, or damaged.
    """
    path = folder / ORIGIN
    try:
        found = json.loads(path.read_bytes())
        is_known = found["format"] == ORIGIN_FORMAT
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise TtvrError(f"{path} is damaged ({error}); export again, to another folder") from error
    if not is_known:
        raise TtvrError(f"{path}: not {ORIGIN_FORMAT}, which this version of ttvr reads")
    try:
        reason = _fault(found)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise TtvrError(
            f"{path} is damaged ({error!r}); export again, to another folder"
        ) from error
    if reason:
        raise TtvrError(f"{path} is damaged ({reason}); export again, to another folder")
    return found


def _fault(found: dict[str, Any]) -> str | None:
    """What is wrong with what was read, where that is seen; else it fails, or is None."""
    meta, pad, ids = found["meta"], np.array(found["pad"], dtype=np.float32), found["ids"]
    shared = {name: meta[name] for name in SHARED}
    if not isinstance(found["state"], str) or not all(isinstance(id, str) for id in ids):
        return "its state or an id is no text"
    if len(set(ids)) != len(ids):
        return "it lists an id twice"
    sizes = {name: shared[name] for name in _SIZES} if ids else {}  # of no rows there may be none
    for name, size in sizes.items():
        if type(size) is not int or not 1 <= size <= _SIZES[name]:
            return f"{name} is {size!r}, expected 1 to {_SIZES[name]}"
    if shared["dtype"] not in DTYPES:
        return f"dtype {shared['dtype']!r}"
    objects = [shared[name] for name in _OBJECTS] + [meta.get("data") or {}]
    if not all(isinstance(one, dict) for one in objects):
        return f"{', '.join(_OBJECTS)} or data is no object"
    if pad.ndim != 1 or not np.isfinite(pad).all():
        return "its pad is no row of numbers"
    return misnamed(ids)
