"""The boxes of an ISO base media file (MP4, QuickTime): how they follow and hold one another."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

# What reading tables that make no sense can raise.
MALFORMED = (struct.error, ValueError, IndexError, KeyError, ArithmeticError)
TOP_LIMIT = 1 << 17  # boxes of a file that are looked at; ten hours of fragments have fewer


class Place(NamedTuple):
    """Where a box of the file itself lies; `at + size` may lie behind the end of a cut file."""

    kind: bytes
    at: int
    size: int


def places(file: BinaryIO, length: int) -> Iterator[Place]:
    """The boxes of a file of `length` bytes, one after the other, without reading what they hold.

    Raises:
        ValueError: a box is smaller than its header.
    """
    at = 0
    for _ in range(TOP_LIMIT):
        if at + 8 > length:
            return
        file.seek(at)
        size, kind = struct.unpack(">I4s", file.read(8))
        if size == 1:
            size = struct.unpack(">Q", file.read(8))[0]
        size = size or length - at
        if size < 8:
            raise ValueError("a box smaller than its header")
        yield Place(kind, at, size)
        at += size


def boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and whole box, header included, of the boxes that follow one another in `data`.

    Raises:
        ValueError: a box does not fit.
    """
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if size == 1:
            raise ValueError("a large box among tables")
        if size == 0:
            size = len(data) - at
        if size < 8 or at + size > len(data):
            raise ValueError("a box ends outside its parent")
        yield kind, data[at : at + size]
        at += size


def children(box: bytes) -> dict[bytes, bytes]:
    """The boxes within a box, by type; of equals the first."""
    found: dict[bytes, bytes] = {}
    for kind, whole in boxes(box[8:]):
        found.setdefault(kind, whole)
    return found


def header_scale(box: bytes) -> int:
    """Ticks per second of an mvhd or mdhd box, whose version 1 has 64-bit dates."""
    return struct.unpack_from(">I", box, 28 if box[8] == 1 else 20)[0]
