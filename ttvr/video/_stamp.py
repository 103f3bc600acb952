"""What tells whether a video is still the one that it was, without reading it."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import NamedTuple

from ttvr.video import _images

DIGEST_DIGITS = 16


class Stamp(NamedTuple):
    """Size and time of change; None where there is no such file.

    Attributes:
        size: bytes, of a folder of images those of all.
        mtime_ns: of the latest image.
        images: digest of names, sizes and times of a folder's images; None of a file.
    """

    size: int | None
    mtime_ns: int | None
    images: str | None = None


def stamp(path: Path) -> Stamp:
    """A video's size and time of change; for an image folder those of the images it shows."""
    try:
        status = path.stat()
        if not stat.S_ISDIR(status.st_mode):
            return Stamp(status.st_size, status.st_mtime_ns)
        images = sorted(
            (os.fsencode(image.name), facts.st_size, facts.st_mtime_ns)
            for image in path.iterdir()
            if _images.is_image(image)
            for facts in [image.stat()]
        )
    except OSError:  # decoding will say what is wrong with it
        return Stamp(None, None)
    latest = max((mtime_ns for _, _, mtime_ns in images), default=None)
    digest = hashlib.sha256(repr(images).encode()).hexdigest()[:DIGEST_DIGITS]
    return Stamp(sum(size for _, size, _ in images), latest, digest)
