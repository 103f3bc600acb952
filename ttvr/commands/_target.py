"""Where a command writes, checked before it does any work."""

from __future__ import annotations

from pathlib import Path

from ttvr.errors import UsageError


def new_file(name: str, *, overwrite: bool) -> Path:
    """The path of a file to be written, which is not there or may be replaced.

    Raises:
        UsageError: a folder, nowhere, or there already and not to be overwritten.
    """
    path = Path(name)
    if path.is_dir():
        raise UsageError(f"{path} is a folder, expected the name of a file")
    if not path.parent.is_dir():
        raise UsageError(f"no folder {path.parent}: make it first")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} is there already; pass --overwrite, or another name")
    return path


def new_folder(name: str) -> Path:
    """The path of a folder to be made or filled.

    Raises:
        UsageError: a file.
    """
    path = Path(name)
    if path.exists() and not path.is_dir():
        raise UsageError(f"{path} is a file, expected the name of a folder")
    return path
