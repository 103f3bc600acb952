"""Takes PPM images out of a stream of bytes that comes in pieces."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

_HEAD = re.compile(rb"P6\s(\d+)\s(\d+)\s255\s")
_HEAD_LIMIT = 64


class PpmReader:
    """Collects binary PPM images; memory is that of the kept images and one more.

    Args:
        keep: which images, by their number in the stream, to hold on to.

    Attributes:
        images: the kept ones, [H, W, 3] uint8, by number.
        count: whole images seen.
    """

    def __init__(self, keep: Callable[[int], bool]) -> None:
        self.images: dict[int, np.ndarray] = {}
        self.count = 0
        self._keep = keep
        self._head = b""
        self._image: np.ndarray | None = None
        self._filled = 0

    def push(self, piece: bytes) -> None:
        """Take the next bytes.

        Raises:
            ValueError: they are no PPM image.
        """
        view = memoryview(piece)
        while view:
            view = self._start(view) if self._image is None else self._fill(view)

    def _start(self, view: memoryview) -> memoryview:
        before = len(self._head)
        self._head += bytes(view[:_HEAD_LIMIT])
        found = _HEAD.match(self._head)
        if found is None:
            if len(self._head) >= _HEAD_LIMIT:
                raise ValueError(f"no PPM image starts with {self._head!r}")
            return view[_HEAD_LIMIT:]
        width, height = int(found[1]), int(found[2])
        self._image = np.empty(height * width * 3, np.uint8).reshape(height, width, 3)
        self._head, self._filled = b"", 0
        return view[found.end() - before :]

    def _fill(self, view: memoryview) -> memoryview:
        flat = self._image.reshape(-1)
        part = view[: len(flat) - self._filled]
        flat[self._filled : self._filled + len(part)] = np.frombuffer(part, np.uint8)
        self._filled += len(part)
        if self._filled == len(flat):
            if self._keep(self.count):
                self.images[self.count] = self._image
            self.count += 1
            self._image = None
        return view[len(part) :]
