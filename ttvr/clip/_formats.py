"""Checkpoint files of every format: recognized by their content, read without executing any."""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ttvr.clip import _archive
from ttvr.clip._layouts import shown
from ttvr.errors import IncompatibleError, RequirementError, TtvrError

RUN_FORMAT = "ttvr-run/1"
TRAINING = ("select", "on", "step", "steps", "seed")  # what a run says of how it was made
NPZ_FORMAT = "ttvr-npz/1"
LABEL = "ttvr"

_HEAD_BYTES = 512
_WRAPPERS = ("state_dict", "model", "model_state_dict")
_TABLE = "token_embedding.weight"
_VOCABULARY = 1 << 18
_NPZ_HEADER_BYTES = 10_000
_NPZ_ROOM, _NPZ_RATIO = 64 << 20, 32
_NPZ_FLOATS = (np.float16, np.float32)
_NPZ_INTEGERS = ("token_rows", "vocab_size")
_PLAIN = (str, int, float, bool, type(None))


class Raw(NamedTuple):
    """What a file holds, before names and sizes are looked at.

    Attributes:
        tensors: of the CLIP, any layout, any dtype.
        format: what the file is, in words.
        label: what ttvr wrote beside them: "activation", "note".
        is_mapped: the tensors are views of the file.
        run: the other entries of a ttvr run: "head", "reducers", "recipe".
    """

    tensors: dict[str, Tensor]
    format: str
    label: dict[str, Any]
    is_mapped: bool = False
    run: dict[str, Any] | None = None


def read(path: Path) -> Raw:
    """The content of a checkpoint file.

    Raises:
        TtvrError: not a checkpoint, damaged, or one that asks for more than data.
        RequirementError: safetensors is needed and not installed.
    """
    size = path.stat().st_size
    if size == 0:
        raise TtvrError(f"{path}: the file is empty; fetch or copy it again")
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head.startswith(b"PK"):
        return _read_zip(path)
    if head.startswith(b"\x80"):
        return _read_pickle(path)
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        return _read_safetensors(path, head, size)
    raise TtvrError(f"{path}: not a checkpoint: {_guess(head)}")


def _guess(head: bytes) -> str:
    start = head.lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, the file itself was not fetched; run `git lfs pull`"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page saved under this name; download the file itself"
    return (
        f"it starts with {head[:8]!r}; ttvr reads OpenAI's archives, state dicts of torch.save, "
        "safetensors and its own .npz"
    )


def _read_zip(path: Path) -> Raw:
    found = _archive.records(path)
    root = _archive.root(found)
    if root is not None:
        if f"{root}/constants.pkl" in found:
            tensors, label = _archive.read(path, found)
            return Raw(tensors, "TorchScript archive", label, is_mapped=True)
        packed = [record for record in found.values() if record.file_size != record.compress_size]
        if packed:
            name = packed[0].filename
            raise TtvrError(
                f"{path}: refused: record {shown(name)!r} is compressed, which torch never does"
            )
        return _read_pickle(path)
    if "format.npy" in found:
        return _read_npz(path, found)
    raise TtvrError(
        f"{path}: a zip file, but not a checkpoint (it holds {', '.join(map(shown, [*found][:3]))})"
    )


def _read_pickle(path: Path) -> Raw:
    """A file of torch.save, old or new, by torch's own reader of nothing but weights."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    # The reader meets arbitrary bytes and raises whatever they lead to.
    except Exception as error:
        raise TtvrError(f"{path}: {_why_not(error)}") from error
    if not isinstance(content, dict):
        raise TtvrError(f"{path}: holds a {type(content).__name__}, not a dictionary of weights")
    if "format" in content:
        return _from_run(path, content)
    label = _own(content)
    for _ in _WRAPPERS * 2:
        inner = next((content[w] for w in _WRAPPERS if isinstance(content.get(w), dict)), None)
        if inner is None:
            break
        content = inner
        label = _own(content) or label
    return Raw(_tensors(path, content), "state dict", label)


def _own(content: dict[Any, Any]) -> dict[str, Any]:
    """What ttvr wrote beside the versions that torch keeps in a state dict."""
    metadata = getattr(content, "_metadata", None)
    label = metadata.get(LABEL) if isinstance(metadata, dict) else None
    return label if isinstance(label, dict) else {}


def _why_not(error: Exception) -> str:
    text = str(error)
    name = re.search(r"GLOBAL ([\w.]+)|class ([\w.]+)|function ([\w.]+)", text)
    if isinstance(error, pickle.UnpicklingError) and name and "weights" in text.lower():
        asked = next(group for group in name.groups() if group)
        return f"refused: it asks for {asked}, which is code, not weights; nothing was executed"
    lines = text.strip().splitlines()
    return f"truncated or damaged ({shown(lines[0] if lines else type(error).__name__)})"


def _tensors(path: Path, content: dict[Any, Any]) -> dict[str, Tensor]:
    """The tensors of a dictionary, each checked against its own storage."""
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        keys = ", ".join(shown(key) for key in [*content][:3]) or "nothing"
        raise TtvrError(f"{path}: holds no tensors where a state dict has them (it has: {keys})")
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            raise TtvrError(f"{path}: {shown(name)} is a sparse, quantized or empty-shell tensor")
        if tensor.nbytes > tensor.untyped_storage().nbytes():
            raise TtvrError(
                f"{path}: {shown(name)} claims {tensor.nbytes} bytes, more than its storage"
            )
    return tensors


def _from_run(path: Path, content: dict[Any, Any]) -> Raw:
    if content["format"] != RUN_FORMAT:
        raise TtvrError(
            f"{path}: format {shown(content['format'])!r}; this ttvr reads {RUN_FORMAT!r}"
        )
    parts = {}
    for part in ("head", "reducers", "recipe", "training"):
        parts[part] = content.get(part, {})
        if not isinstance(parts[part], dict):
            raise TtvrError(f"{path}: its {part!r} is no dictionary")
    for part in ("head", "reducers"):
        if parts[part]:
            parts[part] = _tensors(path, parts[part])
    for part in ("recipe", "training"):
        for key, value in parts[part].items():
            if not isinstance(key, str) or not _is_plain(value):
                raise IncompatibleError(
                    f"{path}: the setting {shown(key)!r} of its {part} is no name with a plain "
                    "value"
                )
    if parts["training"] and {*parts["training"]} != {*TRAINING}:
        raise IncompatibleError(f"{path}: its training is not told by {', '.join(TRAINING)}")
    clip = content.get("clip")
    if not isinstance(clip, dict):
        raise TtvrError(f"{path}: a ttvr run without 'clip'")
    label = {"activation": content.get("activation")}
    return Raw(_tensors(path, clip), "ttvr run", label, run=parts)


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)


def _read_safetensors(path: Path, head: bytes, size: int) -> Raw:
    length = int.from_bytes(head[:8], "little")
    if len(head) < 9 or length + 8 > size:
        raise TtvrError(
            f"{path}: truncated or damaged: a safetensors header of {length} bytes "
            f"in a file of {size}"
        )
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise RequirementError(
            f"{path}: needs the safetensors package. Fix: pip install 'ttvr[safetensors]'"
        ) from error
    try:
        with safe_open(path, framework="pt") as file:
            written = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        label = json.loads(written.get(LABEL, "{}"))
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise TtvrError(f"{path}: truncated or damaged ({shown(error)})") from error
    if not isinstance(label, dict):
        raise TtvrError(f"{path}: its label is damaged")
    return Raw(_tensors(path, tensors), "safetensors", label, is_mapped=True)


def _read_npz(path: Path, found: dict[str, zipfile.ZipInfo]) -> Raw:
    """The embedded default's format: float16, and of the token table the rows that occur."""
    total = sum(record.file_size for record in found.values())
    limit = _NPZ_ROOM + _NPZ_RATIO * path.stat().st_size
    if total > limit:
        raise TtvrError(f"{path}: refused: it claims to unpack to {total} bytes, more than {limit}")
    with zipfile.ZipFile(path) as archive:
        arrays = {
            name.removesuffix(".npy"): _array(path, archive, record)
            for name, record in found.items()
        }
    version = str(arrays.pop("format"))
    if version != NPZ_FORMAT:
        raise TtvrError(f"{path}: format {shown(version)!r}; this ttvr reads {NPZ_FORMAT!r}")
    label = {key: str(arrays.pop(key)) for key in ("activation", "note") if key in arrays}
    for name, array in arrays.items():
        if name not in _NPZ_INTEGERS and array.dtype not in _NPZ_FLOATS:
            what = f"{shown(name)} is of dtype {shown(array.dtype)}"
            raise TtvrError(f"{path}: {what}, not float16 or float32 of little-endian order")
    table = _token_table(path, arrays, room=limit - total)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return Raw({**tensors, **table}, "ttvr npz", label)


def _array(path: Path, archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> np.ndarray:
    """One array, its header checked against the record before room is made for it."""
    try:
        with archive.open(record) as stream:
            version = np.lib.format.read_magic(stream)
            if version != (1, 0):
                raise ValueError(f"npy version {version}")
            shape, _, dtype = np.lib.format.read_array_header_1_0(stream, _NPZ_HEADER_BYTES)
            if dtype.hasobject or prod(shape) * dtype.itemsize != record.file_size - stream.tell():
                raise ValueError(f"{dtype} {shape} in {record.file_size} bytes")
        with archive.open(record) as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)
    # numpy hands the header to Python's parser, which raises whatever damaged text leads to.
    except Exception as error:
        why = str(error) or type(error).__name__
        raise TtvrError(f"{path}: {shown(record.filename)} is damaged ({shown(why)})") from error


def _token_table(path: Path, arrays: dict[str, np.ndarray], *, room: int) -> dict[str, Tensor]:
    """The full table [vocab, width] of at most `room` bytes: rows that are not stored are zero."""
    parts = [arrays.pop(k, None) for k in ("token_rows", "token_embedding.rows", "vocab_size")]
    if all(part is None for part in parts):
        return {}
    if any(part is None for part in parts):
        raise TtvrError(
            f"{path}: its token table needs token_rows, token_embedding.rows, vocab_size"
        )
    ids, rows, vocab = parts
    if (
        vocab.shape != ()
        or vocab.dtype.kind not in "iu"
        or ids.dtype != np.int64
        or rows.ndim != 2
        or ids.shape != rows.shape[:1]
    ):
        raise TtvrError(f"{path}: token rows {rows.shape} with ids {ids.shape} make no table")
    size = int(vocab) * rows.shape[1] * rows.itemsize
    if not 0 < int(vocab) <= _VOCABULARY or size > room:
        raise TtvrError(f"{path}: refused: a token table of {int(vocab)} x {rows.shape[1]}")
    if ids.size and (ids.min() < 0 or ids.max() >= vocab or (np.diff(ids) <= 0).any()):
        raise TtvrError(f"{path}: token ids must ascend within 0..{int(vocab) - 1}")
    table = torch.zeros(int(vocab), rows.shape[1], dtype=torch.from_numpy(rows).dtype)
    table[torch.from_numpy(ids)] = torch.from_numpy(rows)
    return {_TABLE: table}
