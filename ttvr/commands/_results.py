"""`results.jsonl`: a line per result, with all that it takes to compare it with another."""

from __future__ import annotations

import fcntl
import json
import os
import time
from io import FileIO
from pathlib import Path
from typing import Any

from ttvr.errors import TtvrError, UsageError

_FIRST = '{"date": '  # how every line begins, and no other file
_BLOCK = 1 << 16


def check(name: str) -> Path:
    """The path of a file that results may be added to; it need not be there.

    Raises:
        UsageError: a folder, nowhere, or a file that ends with something else than results.
    """
    path = Path(name)
    if path.is_dir():
        raise UsageError(f"{path} is a folder, expected the name of a file of results")
    if not path.parent.is_dir():
        raise UsageError(f"no folder {path.parent}: make it first")
    if path.exists():
        with path.open("rb") as file:
            _whole(file.fileno(), path)
    return path


def append(path: Path, command: str, result: dict[str, Any]) -> None:
    """Add a line: the date, UTC, the command and the result; it is on the disk then.

    It is one write, by one process at a time. A part of a line that a killed process left at the
    end goes first.

    Raises:
        UsageError: as `check`.
        OSError: the disk is full, say.
    """
    with path.open("a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        _add(file, path, command, result)


def append_new(path: Path, command: str, result: dict[str, Any]) -> None:
    """As `append`, unless the file has this result: a training that is over comes out the same.

    Dates and versions do not make it another one.

    Raises:
        TtvrError: a line of the file is no result.
        UsageError, OSError: as `append`.
    """
    with path.open("a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # before reading: another may be adding the same
        try:
            known = [_lasting(json.loads(line)) for line in path.read_bytes().split(b"\n")[:-1]]
        except ValueError as error:
            raise TtvrError(
                f"{path} holds a line that is no result; mend or remove the file"
            ) from error
        if _lasting(json.loads(json.dumps({"command": command, **result}))) not in known:
            _add(file, path, command, result)


def _add(file: FileIO, path: Path, command: str, result: dict[str, Any]) -> None:
    """Add a line to a file that is locked."""
    date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    line = json.dumps({"date": date, "command": command, **result}, ensure_ascii=False) + "\n"
    file.truncate(_whole(file.fileno(), path))
    file.write(line.encode())
    os.fsync(file.fileno())


def _lasting(value: Any) -> Any:
    """The same without dates and versions, at any depth."""
    if isinstance(value, dict):
        return {k: _lasting(v) for k, v in value.items() if k not in ("date", "versions")}
    return [_lasting(one) for one in value] if isinstance(value, list) else value


def _whole(descriptor: int, path: Path) -> int:
    """The number of bytes up to the end of the last whole line.

    Raises:
        UsageError: what follows is no part of a result.
    """
    size = at = os.fstat(descriptor).st_size
    rest = b""
    while at and b"\n" not in rest:
        start = max(0, at - _BLOCK)
        rest = os.pread(descriptor, at - start, start) + rest
        at = start
    torn = rest[rest.rfind(b"\n") + 1 :]
    first = _FIRST.encode()
    if not (torn.startswith(first) or first.startswith(torn)):
        raise UsageError(
            f"{path} does not end as a file of results, nothing was changed; pass another name"
        )
    return size - len(torn)
