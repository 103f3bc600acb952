"""Files per video, as `_export` or clip-video-encode write them -> rows of a feature folder."""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ttvr.errors import TtvrError, UsageError
from ttvr.store._earlier import Outcome
from ttvr.store._files import COMPLETE, ITEMS, META, ORIGIN, TEXTS, mapped
from ttvr.store._journal import FAILED, Source
from ttvr.store._origin import is_line, paths, read_origin
from ttvr.store._shards import NORM_TOLERANCE
from ttvr.wording import counted

_TAKEN = ("duration", "rotation", "expected_s", "decoded_s", "decoder_errors")
"""What of a video's JSON goes into the journal as it is."""
_FLOATS = ("<f2", "<f4", "<f8")
_LARGEST = float(np.finfo(np.float32).max)

Vector = Callable[[np.ndarray], np.ndarray]
"""Frames [T, D] float32 -> the vector of `video/`, [E] float32."""


class Files(NamedTuple):
    """The videos of a folder of files.

    Attributes:
        folder: of them.
        sources: a video each, in the order of the rows to be made.
        origin: what `ttvr-features.json` says; None where there is none.
        unnamed: arrays left out since their names cannot be ids, each with the reason.
        others: how many files are neither arrays nor the JSON of one.
    """

    folder: Path
    sources: list[Source]
    origin: dict[str, Any] | None
    unnamed: list[tuple[Path, str]]
    others: int = 0

    def shape(self, source: Source) -> tuple[int, int] | None:
        """T and D of a video, by the header of its array; None where it is none."""
        try:
            T, D = mapped(self.folder / source.path).shape
        except (OSError, ValueError):
            return None
        return T, D


class Taken(NamedTuple):
    """How the files become rows.

    Attributes:
        frames: T of the rows; of a longer video none is made.
        width: D.
        dim: E, of what `video/` holds.
        dtype: of the rows, <f2 or <f4.
        vector: makes what `video/` holds of frames; None: it is in the JSON of the videos, which
            then are those of an export, unchanged.
    """

    frames: int
    width: int
    dim: int
    dtype: str
    vector: Vector | None


def find_per_video(folder: Path) -> Files:
    """What there is to take from a folder; hidden files are passed over, links followed.

    Of an export of ours the videos are those it lists, in its order, and arrays beyond them are
    left out with a reason: nobody knows what made them. Else all arrays, by name.

    Raises:
        UsageError: no such folder, a feature folder, no arrays, or two whose names are one id.
        TtvrError: an export that is unfinished or damaged.
    """
    if not folder.is_dir():
        what = "is a file, expected a folder of them" if folder.exists() else "no such folder"
        raise UsageError(f"{folder}: {what}")
    if (folder / META).exists() and any((folder / name).exists() for name in (ITEMS, TEXTS)):
        raise UsageError(f"{folder} is a feature folder already; there is nothing to import")
    root = str(folder.resolve())
    if not is_line(root):
        raise UsageError(f"{root!r}: a folder that is not UTF-8 cannot be recorded; rename it")
    origin = read_origin(folder) if (folder / ORIGIN).exists() else None
    if origin is not None and origin["state"] != COMPLETE:
        raise TtvrError(
            f"{folder} is an unfinished export; run the same ttvr-data export again, it goes on"
        )
    below = list(_search(folder))
    found, unnamed = _arrays(folder, below)
    if origin is not None:
        listed = dict.fromkeys(origin["ids"])
        beyond = "not one of the videos that " + ORIGIN + " lists"
        unnamed += [(path, beyond) for id, path in found.items() if id not in listed]
        found = {id: paths(folder, id)[0] for id in listed}
    if not found:
        raise UsageError(f"{folder}: no .npy files of videos")
    sources = [_source(root, id, path, path.relative_to(folder)) for id, path in found.items()]
    arrays = {*found.values(), *(path for path, _ in unnamed)}
    known = {folder / ORIGIN, *arrays, *(path.with_suffix(".json") for path in arrays)}
    return Files(folder, sources, origin, unnamed, others=len(set(below) - known))


def read_per_video(files: Files, source: Source, taken: Taken) -> Outcome:
    """The row of a video, or what is wrong with its files.

    Args:
        files: as found.
        source: one of them.
        taken: how they become rows.
    """
    # An id is a normal form of the name, which a file system may know in another one.
    array = files.folder / source.path
    described = array.with_suffix(".json")
    try:
        frames, stored = _frames(array, taken)
        facts = _facts(described)
        vector, times = _vector(facts, array, frames, taken), _times(facts, len(frames))
        row = {
            "video": vector,
            "frames": _padded(stored, taken.frames, 0),
            "mask": np.arange(taken.frames) < len(frames),
            "times": _padded(times, taken.frames, np.nan),
        }
    except _Unusable as error:
        return Outcome({"status": FAILED, "error": error.code, "detail": str(error)}, None)
    kept = {name: facts[name] for name in _TAKEN if _is_number(facts.get(name))}
    status = "partial" if facts.get("status") == "partial" else "ok"
    path = facts.get("path")
    video = {"video": path} if isinstance(path, str) and path and is_line(path) else {}
    return Outcome({"status": status, "frames": len(frames), **kept, **video}, row)


class _Unusable(Exception):
    """A video no row is made of: why, and the `error` of its journal line."""

    def __init__(self, detail: str, code: str = "invalid_data") -> None:
        super().__init__(detail)
        self.code = code


def _arrays(folder: Path, below: list[Path]) -> tuple[dict[str, Path], list[tuple[Path, str]]]:
    """Arrays below a folder by id, in the order of ids; and those that have none."""
    found: dict[str, Path] = {}
    unnamed = []
    for path in (path for path in below if path.suffix == ".npy"):
        name = path.relative_to(folder).as_posix().removesuffix(".npy")
        if not is_line(name):
            unnamed.append((path, "its name has a line break or is not UTF-8"))
            continue
        id = unicodedata.normalize("NFC", name)
        if (other := found.setdefault(id, path)) != path:
            raise UsageError(f"{other} and {path} both have the id {id!r}; rename one")
    return dict(sorted(found.items())), unnamed


def _search(folder: Path, above: tuple[tuple[int, int], ...] = ()) -> Iterator[Path]:
    """Files below a folder, by name; linked folders are followed, but not into themselves."""
    status = folder.stat()
    if (status.st_dev, status.st_ino) in above:
        return
    above = (*above, (status.st_dev, status.st_ino))
    for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        if path.is_dir():
            yield from _search(path, above)
        else:
            yield path


def _source(root: str, id: str, path: Path, below: Path) -> Source:
    """A video as the journal knows it: size and time of change are of both its files."""
    size = mtime_ns = None
    if path.is_file():
        stats = [one.stat() for one in (path, path.with_suffix(".json")) if one.is_file()]
        size = sum(one.st_size for one in stats)
        mtime_ns = max(one.st_mtime_ns for one in stats)
    return Source(id, root, below.as_posix(), size, mtime_ns)


def _frames(path: Path, taken: Taken) -> tuple[np.ndarray, np.ndarray]:
    """[T, D] float32, finite; and as they are stored."""
    try:
        found = mapped(path)
    except FileNotFoundError as error:
        raise _Unusable("the file is missing") from error
    except (OSError, ValueError) as error:
        raise _Unusable(str(error)) from error
    if found.dtype.newbyteorder("<").str not in _FLOATS or found.ndim != 2:
        said = f"{found.dtype} {list(found.shape)}"
        raise _Unusable(f"{said}, expected float16, float32 or float64 of [frames, width]")
    T, D = found.shape
    if taken.width != D:
        raise _Unusable(f"a width of {D}, that of the model is {taken.width}")
    if not T:
        raise _Unusable("no frames", "empty")
    if taken.frames < T:
        raise _Unusable(f"{T} frames, at most {taken.frames} are taken (--frames)")
    if not np.isfinite(found).all():
        raise _Unusable("it holds NaN or infinity")
    if not found.any(axis=1).all():
        raise _Unusable("a frame of zeros alone, which has no direction")
    frames, stored = _rounded(found, "<f4"), _rounded(found, taken.dtype)
    _require_lengths(frames)
    _require_lengths(stored)
    return frames, stored


def _require_lengths(frames: np.ndarray) -> None:
    """Frames [T, D] have lengths, by which heads divide them, in float32."""
    with np.errstate(over="ignore", under="ignore"):
        lengths = np.linalg.norm(frames.astype("<f4"), axis=1)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        size = "small" if np.isfinite(lengths).all() else "large"
        hint = "; --dtype float32 takes more" if frames.dtype == "<f2" else ""
        raise _Unusable(f"numbers too {size} for {frames.dtype}{hint}")


def _facts(path: Path) -> dict[str, Any]:
    """What the JSON of a video says; nothing where there is none."""
    if not path.exists():
        return {}
    if not path.is_file():  # a pipe would keep us waiting
        raise _Unusable(f"{path.name} is no regular file")
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise _Unusable(f"{path.name} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise _Unusable(f"{path.name} is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise _Unusable(f"{path.name} is no JSON object")
    return found


def _vector(facts: dict[str, Any], array: Path, frames: np.ndarray, taken: Taken) -> np.ndarray:
    """What `video/` holds of a video, [E]: made of its frames, or what its JSON says."""
    made = _unchanged_vector(facts, array) if taken.vector is None else taken.vector(frames)
    stored = _rounded(made, taken.dtype)
    # So put that NaN, of frames whose mean has no direction, is none either.
    is_unit = abs(np.linalg.norm(stored.astype("<f4")) - 1) <= NORM_TOLERANCE
    if stored.shape != (taken.dim,) or not is_unit:
        of = "its .json holds" if taken.vector is None else "its frames have"
        raise _Unusable(f"{of} no unit vector of {taken.dim} numbers")
    return stored


def _unchanged_vector(facts: dict[str, Any], array: Path) -> np.ndarray:
    """The vector [E] that the JSON of an exported video holds, which is that of its array."""
    if "npy_sha256" not in facts or "vector" not in facts:
        raise _Unusable("its .json is missing, or not of an export")
    if hashlib.sha256(array.read_bytes()).hexdigest() != facts["npy_sha256"]:
        raise _Unusable(f"changed since it was exported; to take it as it is, remove {ORIGIN}")
    return _numbers(facts["vector"], "vector")


def _times(facts: dict[str, Any], T: int) -> np.ndarray:
    """[T] float32 seconds, NaN where they are not known."""
    times = facts.get("times")
    if times is None:
        return np.full(T, np.nan, "<f4")
    if not isinstance(times, list) or len(times) != T:
        raise _Unusable(f"its .json does not give {counted(T, 'time')}")
    seconds = [math.nan if time is None else time for time in times]
    return _rounded(_numbers(seconds, "times"), "<f4")


def _is_number(value: object) -> bool:
    """Whether a value of a JSON is a number that JSON has, and a float can be."""
    is_one = isinstance(value, int | float) and not isinstance(value, bool)
    return is_one and abs(value) < _LARGEST


def _numbers(values: Sequence[float], what: str) -> np.ndarray:
    if not isinstance(values, list) or not all(_is_number(one) or one != one for one in values):
        raise _Unusable(f"{what} of its .json are no numbers")
    return np.array(values, dtype=np.float64)


def _rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """A copy; what is too large becomes infinite, what is too small zero."""
    with np.errstate(over="ignore", under="ignore"):
        return np.array(values, dtype=dtype)


def _padded(values: np.ndarray, length: int, fill: float) -> np.ndarray:
    """[T, ...] -> [length, ...], filled up."""
    padded = np.full((length, *values.shape[1:]), fill, values.dtype)
    padded[: len(values)] = values
    return padded
