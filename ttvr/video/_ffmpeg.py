"""Finds the ffmpeg executable: $TTVR_FFMPEG, PATH, or the one that imageio-ffmpeg carries."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

from ttvr.errors import RequirementError

VARIABLE = "TTVR_FFMPEG"
_FIX = "Fix: apt install ffmpeg | brew install ffmpeg | pip install 'ttvr[ffmpeg]'"
MISSING = f"cannot find ffmpeg (looked at ${VARIABLE}, PATH, imageio-ffmpeg). {_FIX}"
START_LIMIT = 20.0  # seconds within which a usable ffmpeg answers -version
OLDEST = 5  # its log lines are those that are read; what is older writes others
CLEARLY = 0.5  # part of the start-up time of PATH's within which another one is preferred
NEW_SYNC = (5, 1)  # -fps_mode came with 5.1; -vsync, its predecessor, was removed later


def find_ffmpeg() -> Path:
    """The ffmpeg to use: $TTVR_FFMPEG, else that of PATH, else the one of imageio-ffmpeg.

    The latter comes first where it starts in half the time: a video costs some starts. It takes
    that much, for a run that is resumed must decode with what it began with.

    Raises:
        RequirementError: there is none of version 5 or later, or $TTVR_FFMPEG names something
            that is not ffmpeg.
    """
    return _find(os.environ.get(VARIABLE, ""), os.environ.get("PATH", ""))


def ffmpeg_version() -> str:
    """The version as that ffmpeg prints it, like `5.1.9-0+deb12u1`.

    Raises:
        RequirementError: there is no ffmpeg.
    """
    return _start(str(find_ffmpeg()))[0]


def passthrough() -> dict[str, str]:
    """The output option that keeps every frame and invents none, as this version spells it."""
    is_old = (_number(ffmpeg_version()) or NEW_SYNC) < NEW_SYNC
    return {"vsync": "passthrough"} if is_old else {"fps_mode": "passthrough"}


@functools.cache
def _find(named: str, path: str) -> Path:
    if named:
        executable = shutil.which(named)
        answer = None if executable is None else _start(executable)
        if answer is None:
            raise RequirementError(
                f"${VARIABLE} is {named}, which is not a working ffmpeg executable. "
                f"Fix: set {VARIABLE} to one, or unset it"
            )
        if _is_too_old(answer[0]):
            raise _too_old(executable, answer[0])
        return Path(executable)
    candidates = (shutil.which("ffmpeg", path=path), _carried())
    answers = {name: _start(name) for name in candidates if name is not None}
    working = {name: answer for name, answer in answers.items() if answer is not None}
    usable = {name: answer[1] for name, answer in working.items() if not _is_too_old(answer[0])}
    if not usable:
        if working:
            name, answer = next(iter(working.items()))
            raise _too_old(name, answer[0])
        raise RequirementError(MISSING)
    first, *others = usable
    return Path(next((name for name in others if usable[name] < CLEARLY * usable[first]), first))


def _too_old(executable: str, version: str) -> RequirementError:
    return RequirementError(
        f"{executable} is ffmpeg {version}, and {OLDEST}.0 or later is needed. {_FIX}"
    )


def _is_too_old(version: str) -> bool:
    number = _number(version)
    return number is not None and number < (OLDEST, 0)


def _number(version: str) -> tuple[int, int] | None:
    """Major and minor number of a version, None of a build that has no number."""
    found = re.match(r"n?(\d+)\.(\d+)", version)
    return None if found is None else (int(found[1]), int(found[2]))


def _carried() -> str | None:
    try:
        import imageio_ffmpeg
    except ImportError:
        return None
    try:
        return imageio_ffmpeg.get_ffmpeg_exe()
    except RuntimeError:  # the wheel was built without an executable
        return None


@functools.cache
def _start(executable: str) -> tuple[str, float] | None:
    """Version and seconds of the faster of two starts, or None if it is no ffmpeg.

    The first start reads the file from disk, so the second one is what later starts cost.
    """
    seconds = []
    version = None
    for _ in range(2):
        before = time.perf_counter()
        try:
            answer = subprocess.run(
                [executable, "-version"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=START_LIMIT,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        seconds.append(time.perf_counter() - before)
        version = re.match(rb"ffmpeg version (\S+)", answer.stdout)
        if version is None:
            return None
    return version[1].decode("ascii", "replace"), min(seconds)
