"""Files of a feature folder: names, `.npy` headers, writes that are whole or not there at all."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from ttvr.errors import TtvrError

FORMAT = "ttvr-features/1"
META, IDS, ITEMS, PAD = "meta.json", "ids.txt", "items.jsonl", "pad.npy"
TEXTS, PAIRS = "texts.txt", "gt.tsv"
ORIGIN = "ttvr-features.json"
"""Beside files per video: what all of them share."""
PARTIAL = ".partial"
INCOMPLETE, COMPLETE = "incomplete", "complete"
VIDEO_ARRAYS = ("video", "frames", "mask", "times", "patches")
TEXT_ARRAYS = ("text", "words", "mask")
DTYPES = ("<f2", "<f4")
HEADER_BYTES = 128  # fixed, so that a shard can be cut or grown by rewriting its header in place


def shard_name(shard: int) -> str:
    """File name of a shard."""
    return f"{shard:05d}.npy"


def npy_header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """The 128 bytes before the data of a `.npy` v1.0 file, C order; what `np.save` writes too."""
    text = f"{{'descr': {dtype.str!r}, 'fortran_order': False, 'shape': {tuple(shape)!r}, }}"
    room = HEADER_BYTES - 10
    if len(text) >= room:
        raise ValueError(f"shape {shape} does not fit into a header of {HEADER_BYTES} bytes")
    return b"\x93NUMPY\x01\x00" + room.to_bytes(2, "little") + text.ljust(room - 1).encode() + b"\n"


def npy_bytes(array: np.ndarray) -> bytes:
    """A whole `.npy` file, little-endian, C order."""
    data = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return npy_header(data.dtype, data.shape) + data.tobytes()


def write_whole(path: Path, content: bytes) -> None:
    """Write to a temporary name in the same folder, sync, rename: never half a file."""
    partial = path.with_name(f".{path.name}.tmp")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        write_all(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    partial.replace(path)
    sync_folder(path.parent)


def write_all(descriptor: int, content: bytes, *, offset: int | None = None) -> None:
    """Write all bytes, at `offset` or where the file stands; a full disk is an OSError."""
    left = memoryview(content)
    while left:
        if offset is None:
            count = os.write(descriptor, left)
        else:
            count = os.pwrite(descriptor, left, offset)
            offset += count
        left = left[count:]


def sync_folder(path: Path) -> None:
    """Make renames in a folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def json_bytes(content: dict[str, Any]) -> bytes:
    """Indented UTF-8 JSON, keys in the order given."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def read_meta(folder: Path) -> dict[str, Any]:
    """The content of `meta.json`, its format checked.

    Raises:
        TtvrError: there is none, it is not JSON, or of another format.
    """
    path = folder / META
    try:
        meta = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        is_exported = (folder / ORIGIN).exists()
        make = (
            f"ttvr-data import {shlex.quote(str(folder))}"
            if is_exported
            else "ttvr-extract PATH..."
        )
        raise TtvrError(
            f"{folder} is no feature folder (no {META}); make one: {make} -o feats/"
        ) from error
    except ValueError as error:
        raise TtvrError(f"{path} is not JSON: {error}; extract again with --overwrite") from error
    found = meta.get("format") if isinstance(meta, dict) else None
    if found != FORMAT:
        raise TtvrError(f"{path}: format {found!r}, this version of ttvr reads {FORMAT!r}")
    return meta


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file whose only line end is LF.

    Raises:
        TtvrError: there is no such file, or it is not UTF-8.
    """
    try:
        text = path.read_bytes().decode()
    except FileNotFoundError as error:
        raise damaged(path, "missing") from error
    except UnicodeDecodeError as error:
        raise damaged(path, f"not UTF-8 ({error.reason} at byte {error.start})") from error
    return text.removesuffix("\n").split("\n") if text else []


def mapped(path: Path) -> np.memmap:
    """A whole `.npy` file, memory-mapped read-only, never unpickled.

    No more is read, or made room for, than the file holds, whatever its header says.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it is no `.npy` file, of objects, or longer or shorter than its header says.
    """
    if path.exists() and not path.is_file():  # a pipe would keep us waiting
        raise ValueError("not a readable .npy file (no regular file)")
    try:
        with np.errstate(over="ignore"):  # of the product of a shape
            array = np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:  # numpy's reading of a header fails in any way that Python can
        raise ValueError(unreadable(error)) from error
    size, expected = path.stat().st_size, array.offset + array.nbytes
    if size != expected:
        raise ValueError(f"{size} bytes, its header says {expected}")
    return array


def unreadable(error: Exception) -> str:
    """What is said, on one line, of a file whose header numpy fails on."""
    said = " ".join(str(error).split()) or type(error).__name__
    if "allow_pickle" in said:  # numpy's advice is to trust the file, which runs what is in it
        said = "objects, or a header that is too long"
    return f"not a readable .npy file ({said})"


def read_array(path: Path) -> np.ndarray:
    """As `mapped`, of a feature folder.

    Raises:
        TtvrError: missing, truncated, pickled, or not an array.
    """
    try:
        return mapped(path)
    except FileNotFoundError as error:
        raise damaged(path, "missing") from error
    except ValueError as error:
        raise damaged(path, str(error)) from error


def damaged(path: Path, what: str) -> TtvrError:
    """The error for a file of a feature folder that cannot be used."""
    return TtvrError(f"{path}: {what}; extract again with --overwrite")
