"""Who may write a feature folder, and what becomes of what an earlier run left in it."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ttvr.errors import IncompatibleError, TtvrError, UsageError
from ttvr.store._files import (
    IDS,
    ITEMS,
    META,
    PAD,
    PAIRS,
    PARTIAL,
    TEXT_ARRAYS,
    TEXTS,
    VIDEO_ARRAYS,
    read_meta,
)

LOCK = "lock"
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT)
_CONTENT = tuple(dict.fromkeys((*VIDEO_ARRAYS, *TEXT_ARRAYS, PAD, IDS, ITEMS, TEXTS, PAIRS, META)))
# An earlier run's content moves to `.partial/earlier-N` in one rename per file: `.moving` says that
# the move is not over, `.gone` that the content only waits for its removal.
_EARLIER, _MOVING, _GONE = "earlier-", ".moving", ".gone"


def check_usable(folder: Path, wanted: Mapping[str, Any], *, resume: bool, overwrite: bool) -> None:
    """Check, changing nothing, that a run may write to this folder.

    Args:
        folder: the output.
        wanted: the part of `meta.json` that has to agree with what is there.
        resume: go on with what is there.
        overwrite: remove what is there.

    Raises:
        UsageError: it is a file, holds what no extraction wrote, or may not be gone on with.
        IncompatibleError: what is there was made with other settings.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file, the output is a folder; pass another -o")
    if (folder / META).is_file() or (folder / PARTIAL).is_dir():
        if not (resume or overwrite):
            raise UsageError(
                f"{folder} holds features already, nothing was changed; "
                "drop --no-resume to go on with it, or pass --overwrite or another -o"
            )
        if not overwrite:
            refuse_mixture(folder, wanted)
    elif any(folder.iterdir()):
        raise UsageError(
            f"{folder} is not empty and not a feature folder, nothing was changed; pass another -o"
        )


class Lock:
    """The right to write a folder, held by one process; it ends with the process.

    Raises:
        TtvrError: another process has it.
    """

    def __init__(self, folder: Path) -> None:
        partial = folder / PARTIAL
        path = partial / LOCK
        while True:
            partial.mkdir(parents=True, exist_ok=True)
            try:
                self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            except FileNotFoundError:
                continue
            try:
                self._take(folder)
            except BaseException:
                os.close(self._descriptor)
                raise
            if self._is_current(path):
                return
            os.close(self._descriptor)

    def _take(self, folder: Path) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError as error:
            owner = os.pread(self._descriptor, 32, 0).decode().strip()
            raise TtvrError(
                f"{folder} is being written by process {owner or 'unknown'}, nothing was changed; "
                "wait for it or pass another -o"
            ) from error

    def _is_current(self, path: Path) -> bool:
        """Whether the file is still there: whoever had the lock may have removed it, done."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), path.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Let others write; removes nothing."""
        os.close(self._descriptor)


def earlier(folder: Path) -> Iterator[Path]:
    """The contents of earlier runs that were set aside, oldest first."""
    found = [path for path in (folder / PARTIAL).glob(_EARLIER + "*") if not path.suffix]
    yield from sorted(found, key=lambda path: int(path.name.removeprefix(_EARLIER)))


def recover(folder: Path) -> None:
    """Finish what a killed run had begun: a setting aside, a removal."""
    for gone in (folder / PARTIAL).glob(_EARLIER + "*" + _GONE):
        shutil.rmtree(gone)
    for moving in (folder / PARTIAL).glob(_EARLIER + "*" + _MOVING):
        _move_content(folder, moving)


def set_aside(folder: Path) -> None:
    """Move all content to `.partial/earlier-N`, whence its rows can be taken again."""
    number = max((int(path.name.rpartition("-")[2]) for path in earlier(folder)), default=-1) + 1
    moving = folder / PARTIAL / f"{_EARLIER}{number}{_MOVING}"
    moving.mkdir()
    _move_content(folder, moving)


def discard(folder: Path) -> None:
    """Remove all content, also what was set aside."""
    set_aside(folder)
    for path in earlier(folder):
        gone = path.with_name(path.name + _GONE)
        path.replace(gone)
        shutil.rmtree(gone)


def clear_partial(folder: Path) -> None:
    """Remove `.partial/`, the lock last: the folder is complete.

    From the moment the lock is gone another process may take the folder: then `.partial/` is its.
    """
    partial = folder / PARTIAL
    for path in partial.iterdir():
        if path.name != LOCK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (partial / LOCK).unlink()
    try:
        partial.rmdir()
    except OSError as error:
        if error.errno not in _TAKEN:
            raise


def leave_unused(folder: Path) -> None:
    """Remove `.partial/` where it holds nothing but the lock: the folder is as it was."""
    if [path.name for path in (folder / PARTIAL).iterdir()] == [LOCK]:
        clear_partial(folder)


def refuse_mixture(folder: Path, wanted: Mapping[str, Any]) -> None:
    """Check that what is in a folder was made as what is to be added.

    Raises:
        IncompatibleError: it was not; the message lists what differs.
    """
    for place in (folder, *earlier(folder)):
        if not (place / META).exists():
            continue
        refuse_differences(folder, read_meta(place), wanted)


def refuse_differences(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Check that what a folder is said to hold agrees with what is wanted there.

    Raises:
        IncompatibleError: it does not; the message lists what differs.
    """
    if differing := differences(found, wanted):
        listed = "; ".join(f"{key} is {a!r}, now {b!r}" for key, a, b in differing)
        raise IncompatibleError(
            f"{folder} was made with other settings, nothing was changed: {listed}; "
            "use the same settings, another -o, or --overwrite to start anew"
        )


def differences(
    found: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = ""
) -> list[tuple[str, Any, Any]]:
    """Keys of `wanted` whose values differ, dotted, with the value found and the one wanted."""
    differing = []
    for key, value in wanted.items():
        other = found.get(key)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            differing += differences(other, value, f"{prefix}{key}.")
        elif other != value:
            differing.append((prefix + key, other, value))
    return differing


def _move_content(folder: Path, moving: Path) -> None:
    for name in _CONTENT:
        if (folder / name).exists():
            (folder / name).replace(moving / name)
    partial = moving / PARTIAL
    partial.mkdir(exist_ok=True)
    for path in (folder / PARTIAL).glob("*.npy"):
        path.replace(partial / path.name)
    moving.replace(moving.with_suffix(""))
