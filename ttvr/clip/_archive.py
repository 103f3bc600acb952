"""TorchScript archives (OpenAI's published files), read without executing anything in them."""

from __future__ import annotations

import json
import mmap
import struct
import sys
import zipfile
import zlib
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from ttvr.clip import _pickle
from ttvr.clip._layouts import shown
from ttvr.clip.catalog import LABEL_RECORD, ZIP_METHODS
from ttvr.errors import TtvrError

PICKLE_BYTES = 4 << 20
_PICKLE = "/data.pkl"
_LOCAL_HEADER = 30
_CHUNK = 1 << 20
_OBJECTS = 200_000
_NAME_LENGTH = 1000
_MAX_DIMENSIONS = 8
_BEYOND_ANY_SIZE = 1 << 40
_DTYPES = {
    "HalfStorage": torch.float16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def records(path: Path) -> dict[str, zipfile.ZipInfo]:
    """The records of a zip file by name, checked against the size of the file.

    Raises:
        TtvrError: damaged, encrypted, or with names or sizes that cannot be right.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            listed = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        raise TtvrError(f"{path}: a truncated or damaged archive ({error})") from error
    found: dict[str, zipfile.ZipInfo] = {}
    available = path.stat().st_size
    for record in listed:
        name = PurePosixPath(record.filename)
        if name.is_absolute() or ".." in name.parts or "\\" in record.filename:
            raise TtvrError(
                f"{path}: refused: a record named {shown(record.filename)!r} points elsewhere"
            )
        if record.filename in found:
            raise TtvrError(f"{path}: refused: two records named {shown(record.filename)!r}")
        if record.compress_type not in ZIP_METHODS:
            raise TtvrError(
                f"{path}: refused: record {shown(record.filename)!r} is compressed by a method "
                "that neither torch nor numpy uses"
            )
        is_plain = record.compress_type == zipfile.ZIP_STORED
        if (
            record.header_offset + record.compress_size > available
            or (is_plain and record.file_size != record.compress_size)
            or record.flag_bits & 1
        ):
            raise TtvrError(
                f"{path}: truncated or damaged: record {shown(record.filename)!r} claims "
                f"{record.file_size} bytes, the file has {available}"
            )
        found[record.filename] = record
    return found


def root(found: dict[str, zipfile.ZipInfo]) -> str | None:
    """The folder of the records in a file of torch's; None where it is no such file."""
    return next((name[: -len(_PICKLE)] for name in found if name.endswith(_PICKLE)), None)


def small(path: Path, record: zipfile.ZipInfo) -> bytes:
    """A record that is not a storage: a pickle, a version, a label."""
    if record.file_size > PICKLE_BYTES:
        raise TtvrError(
            f"{path}: refused: record {shown(record.filename)!r} claims {record.file_size} bytes "
            f"where at most {PICKLE_BYTES} make sense"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(record)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, zlib.error) as error:
        raise TtvrError(
            f"{path}: record {shown(record.filename)!r} is damaged ({error})"
        ) from error


def check_sums(path: Path) -> None:
    """Compare every record of a zip file with its checksum, which loading does not take time for.

    Raises:
        TtvrError: a record has changed; the message names it.
    """
    found = records(path)
    with zipfile.ZipFile(path) as archive:
        for record in found.values():
            try:
                with archive.open(record) as stream:
                    while stream.read(_CHUNK):
                        pass
            except (zipfile.BadZipFile, NotImplementedError, EOFError, zlib.error) as error:
                name = shown(record.filename)
                raise TtvrError(f"{path}: record {name!r} fails its checksum ({error})") from error


def read(path: Path, found: dict[str, zipfile.ZipInfo]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of an archive by the path of their attribute, and its label.

    Args:
        path: the file.
        found: its `records`.

    Returns:
        Tensors of any dtype that are views of the mapped file, and the label that ttvr writes
        into archives of its own (empty in others).

    Raises:
        TtvrError: damaged, or asks for more than data.
    """
    reader = _Reader(path, found)
    module = _pickle.run(small(path, found[f"{reader.root}{_PICKLE}"]), reader.tensor)
    return _collect(module), reader.label()


class _Reader:
    """The storages of one archive, mapped."""

    def __init__(self, path: Path, found: dict[str, zipfile.ZipInfo]) -> None:
        self._path, self._found = path, found
        self.root = root(found)
        order = found.get(f"{self.root}/byteorder")
        if order is not None and small(path, order).decode("latin-1") != sys.byteorder:
            raise TtvrError(f"{path}: written on a machine with another byte order")
        with path.open("rb") as file:
            # A private mapping: torch wants memory it may write to, the file stays as it is.
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self._storages: dict[_pickle.Storage, Tensor] = {}

    def label(self) -> dict[str, Any]:
        """What `ttvr` itself wrote beside the weights."""
        record = self._found.get(f"{self.root}/extra/{LABEL_RECORD}")
        if record is None:
            return {}
        try:
            label = json.loads(small(self._path, record))
        except (ValueError, RecursionError):
            label = None
        if not isinstance(label, dict):
            raise TtvrError(f"{self._path}: its label is damaged")
        return label

    def tensor(self, storage: _pickle.Storage, offset: Any, size: Any, stride: Any) -> Tensor:
        """A view of a storage, refused where it would reach beyond it."""
        if max(len(size), len(stride)) > _MAX_DIMENSIONS:
            raise TtvrError(
                f"refused: a tensor of sizes in {len(size)}, strides in {len(stride)} dimensions"
            )
        numbers = (offset, *size, *stride)
        if any(type(number) is not int for number in numbers):
            raise TtvrError("damaged: a tensor whose sizes are no numbers")
        inside = all(0 <= number < _BEYOND_ANY_SIZE for number in numbers)
        # A size of zero makes no other size a good one: torch multiplies them all.
        extent = prod(max(number, 1) for number in size)
        if not inside or len(size) != len(stride) or extent >= _BEYOND_ANY_SIZE:
            what = shown(f"size {size}, stride {stride}, offset {offset}")
            raise TtvrError(f"refused: a tensor of {what}")
        flat = self._storage(storage)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        elements = prod(size)
        if elements > flat.numel() or (elements and last >= flat.numel()):
            raise TtvrError(
                f"damaged: a tensor of size {tuple(size)} does not fit into "
                f"its storage of {flat.numel()} elements"
            )
        return flat.as_strided(size, stride, offset) if elements else flat.new_empty(size)

    def _storage(self, storage: _pickle.Storage) -> Tensor:
        if storage not in self._storages:
            self._storages[storage] = self._mapped(storage)
        return self._storages[storage]

    def _mapped(self, storage: _pickle.Storage) -> Tensor:
        name, dtype = f"{self.root}/data/{storage.key}", _DTYPES[storage.kind]
        record = self._found.get(name)
        if record is None:
            raise TtvrError(f"damaged: record {shown(name)!r} is missing")
        if record.compress_type != zipfile.ZIP_STORED:
            raise TtvrError(
                f"refused: record {shown(name)!r} is compressed, which torch never does"
            )
        if storage.count < 0 or storage.count * dtype.itemsize > record.file_size:
            raise TtvrError(
                f"damaged: record {shown(name)!r} has {record.file_size} bytes, "
                f"{shown(storage.count)} x {dtype.itemsize} are needed"
            )
        if storage.count == 0:
            return torch.empty(0, dtype=dtype)
        start = self._start(record)
        if start % dtype.itemsize:
            copied = bytearray(self._map[start : start + storage.count * dtype.itemsize])
            return torch.frombuffer(copied, dtype=dtype)
        return torch.frombuffer(self._map, dtype=dtype, count=storage.count, offset=start)

    def _start(self, record: zipfile.ZipInfo) -> int:
        """Where the bytes of a record begin: behind its local header, which has its own lengths."""
        header = self._map[record.header_offset : record.header_offset + _LOCAL_HEADER]
        if len(header) < _LOCAL_HEADER or header[:4] != b"PK\x03\x04":
            raise TtvrError(f"damaged: record {shown(record.filename)!r} has no header")
        start = record.header_offset + _LOCAL_HEADER + sum(struct.unpack("<HH", header[26:30]))
        if start + record.file_size > len(self._map):
            raise TtvrError(f"truncated: record {shown(record.filename)!r} ends behind the file")
        return start


def _collect(module: Any) -> dict[str, Tensor]:
    """All tensors below an object, named by the attributes that lead to them."""
    tensors: dict[str, Tensor] = {}
    pending: list[tuple[str, Any]] = [("", module)]
    objects = 0
    while pending:
        name, value = pending.pop()
        # An object may hold itself, or be held so often that the walk would never end.
        if objects > _OBJECTS or len(name) > _NAME_LENGTH:
            raise TtvrError("refused: its objects are nested beyond all reason")
        if isinstance(value, Tensor):
            tensors[name] = value
            continue
        inner = value.state if isinstance(value, _pickle.Record) else value
        if not isinstance(inner, dict):
            continue
        objects += len(inner)
        prefix = f"{name}." if name else ""
        pending.extend((f"{prefix}{key}", part) for key, part in inner.items())
    return tensors
