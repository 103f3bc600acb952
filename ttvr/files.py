"""Writing a file so that it is there whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """The name to write a file under; it takes its own name when the block ends without an error.

    Args:
        path: of the file to make or replace, in a folder that exists.

    Yields:
        A name in the same folder with the same suffix, which is gone afterwards.
    """
    partial = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write(path: Path, content: Callable[[BinaryIO], object]) -> None:
    """Write a file whole or not at all.

    Args:
        path: of the file to make or replace, in a folder that exists.
        content: writes to the open file.

    Raises:
        OSError: the disk is full, say; names the file.
    """
    with written(path) as partial:
        try:
            with partial.open("wb") as file:
                content(file)
        except Exception as error:
            # torch.save raises an error of its own when a write fails, which has the reason.
            reason = error if isinstance(error, OSError) else error.__context__
            if not isinstance(reason, OSError):
                raise
            raise OSError(reason.errno, reason.strerror, str(path)) from error
