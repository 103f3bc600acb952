"""The unfinished file of a download, for one process at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ttvr.errors import TtvrError


@contextmanager
def claimed(part: Path) -> Iterator[BinaryIO]:
    """The file, made where there is none, open unbuffered and locked; removed if left empty.

    Raises:
        TtvrError: another process has it.
    """
    with _locked(part) as file:
        try:
            yield file
        finally:
            if os.fstat(file.fileno()).st_size == 0:
                part.unlink(missing_ok=True)


def _locked(part: Path) -> BinaryIO:
    while True:
        # Unbuffered, so that a full disk shows when bytes are written, not when it is closed.
        file = os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT, 0o666), "r+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever had the lock may have renamed or removed the file, done.
            if os.path.samestat(os.fstat(file.fileno()), part.stat()):
                return file
        except BlockingIOError as error:
            file.close()
            raise TtvrError(
                f"{part}: another process is downloading it; wait for that one to end"
            ) from error
        except FileNotFoundError:
            pass
        file.close()
