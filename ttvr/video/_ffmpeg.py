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
MISSING = (
    f"cannot find ffmpeg (looked at ${VARIABLE}, PATH, imageio-ffmpeg). "
    "Fix: apt install ffmpeg | brew install ffmpeg | pip install 'ttvr[ffmpeg]'"
)
START_LIMIT = 20.0  # seconds within which a usable ffmpeg answers -version
NEW_SYNC = (5, 1)  # -fps_mode came with 5.1; -vsync, its predecessor, was removed later


def find_ffmpeg() -> Path:
    """The ffmpeg to use: $TTVR_FFMPEG, else of PATH and imageio-ffmpeg the one that starts faster.

    Raises:
        RequirementError: there is none, or $TTVR_FFMPEG names something that is not ffmpeg.
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
    number = re.match(r"n?(\d+)\.(\d+)", ffmpeg_version())
    is_old = number is not None and (int(number[1]), int(number[2])) < NEW_SYNC
    return {"vsync": "passthrough"} if is_old else {"fps_mode": "passthrough"}


@functools.cache
def _find(named: str, path: str) -> Path:
    if named:
        executable = shutil.which(named)
        if executable is None or _start(executable) is None:
            raise RequirementError(
                f"${VARIABLE} is {named}, which is not a working ffmpeg executable. "
                f"Fix: set {VARIABLE} to one, or unset it"
            )
        return Path(executable)
    started = {}
    for candidate in (shutil.which("ffmpeg", path=path), _carried()):
        if candidate is not None and candidate not in started:
            started[candidate] = _start(candidate)
    working = {name: answer[1] for name, answer in started.items() if answer is not None}
    if not working:
        raise RequirementError(MISSING)
    return Path(min(working, key=working.__getitem__))


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
