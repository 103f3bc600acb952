"""The length that an AVI file's header promises: ffmpeg guesses it anew for a file cut short."""

from __future__ import annotations

import struct
from pathlib import Path

_HEAD = 1 << 16  # bytes within which the stream headers lie


def seconds(path: Path) -> float | None:
    """Length of the first video stream by its header, or None if this is no AVI file."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    at = head.find(b"strh")
    while head[:4] == b"RIFF" and head[8:12] == b"AVI " and 0 <= at <= len(head) - 44:
        if head[at + 8 : at + 12] == b"vids":
            scale, rate, _, length = struct.unpack_from("<4I", head, at + 28)
            return length * scale / rate if rate and length else None
        at = head.find(b"strh", at + 4)
    return None
