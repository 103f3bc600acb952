"""What a fragmented MP4 says of its length, and whether its last fragment is whole.

ISO/IEC 14496-12. A file cut between two fragments is told from a whole one only by the length
that its head promises, where it does: in `mehd`, or in a `sidx` of all fragments.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ttvr.video._boxes import MALFORMED, TOP_LIMIT, Place, boxes, children, header_scale, places

HEAD_LIMIT = 1 << 26  # bytes of a moov or sidx that are read
_REFERENCES = struct.Struct(">III")


class Fragments(NamedTuple):
    """Of a fragmented file.

    Attributes:
        seconds: length that its head promises, 0 if it does not say.
        is_cut: the last fragment lacks its data, or a part of it.
    """

    seconds: float
    is_cut: bool


def read(path: Path) -> Fragments | None:
    """What the boxes tell, or None if this is no fragmented MP4."""
    try:
        length = path.stat().st_size
        with path.open("rb") as file:
            return _read(file, length)
    except MALFORMED:
        return None


def _read(file: BinaryIO, length: int) -> Fragments | None:
    found = list(places(file, length))
    moov = next((place for place in found if place.kind == b"moov"), None)
    first = next((i for i, place in enumerate(found) if place.kind == b"moof"), None)
    if moov is None or first is None:
        return None
    seconds = _extent(_content(file, moov))
    index = next((place for place in found[:first] if place.kind == b"sidx"), None)
    if index is not None:
        seconds = max(seconds, _indexed(_content(file, index)))
    last = found[-1]
    if len(found) == TOP_LIMIT:  # there may be more
        return Fragments(seconds, False)
    is_short = last.kind == b"mdat" and last.at + last.size > length
    return Fragments(seconds, last.kind == b"moof" or is_short)


def _content(file: BinaryIO, place: Place) -> bytes:
    if place.size > HEAD_LIMIT:
        raise ValueError("a box too large to be read")
    file.seek(place.at)
    return file.read(place.size)


def _extent(moov: bytes) -> float:
    """Seconds of the whole movie, fragments included, by `mehd`."""
    parts = children(moov)
    scale = header_scale(parts[b"mvhd"])
    for kind, box in boxes(parts.get(b"mvex", b"")[8:]):
        if kind == b"mehd":
            return struct.unpack_from(">Q" if box[8] == 1 else ">I", box, 12)[0] / scale
    return 0.0


def _indexed(sidx: bytes) -> float:
    """Seconds of all that an index lists; what it lists may be the first fragment alone."""
    scale = struct.unpack_from(">I", sidx, 16)[0]
    at = 36 if sidx[8] == 1 else 28
    count = struct.unpack_from(">H", sidx, at + 2)[0]
    references = _REFERENCES.iter_unpack(sidx[at + 4 : at + 4 + count * _REFERENCES.size])
    return sum(ticks for _, ticks, _ in references) / scale
