"""`ttvr-doctor`: what this machine has, what it lacks, and the command that mends it."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import NamedTuple

from ttvr import __version__
from ttvr.commands import _options
from ttvr.commands._run import DONE, MISSING, PACKAGES, execute, parser
from ttvr.errors import RequirementError, TtvrError

EXTRAS = {
    "imageio-ffmpeg": "ffmpeg",
    "safetensors": "safetensors",
    "faiss-cpu": "faiss",
    "matplotlib": "plot",
}
VARIABLES = ("TTVR_FFMPEG", "TTVR_WEIGHTS", "TTVR_OFFLINE", "CUDA_VISIBLE_DEVICES")
ENOUGH_DISK_GIB = 1.0


class Finding(NamedTuple):
    """One line of the report.

    Attributes:
        name: what was looked for.
        state: ok, missing (and needed) or absent (and optional).
        detail: what was found.
        fix: the command that mends it; empty where nothing is to mend.
    """

    name: str
    state: str
    detail: str
    fix: str = ""


def main(argv: Sequence[str] | None = None) -> int:
    """Report; the exit code is returned."""
    return execute(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    made = parser(
        "doctor",
        summary="Report versions, devices, ffmpeg, weights and disk; each missing thing comes\n"
        "with the command that mends it. Exit code 5 if something needed is missing.",
        examples=["ttvr-doctor", "ttvr-doctor --json"],
    )
    _options.add(made, "json")
    return made


def _run(args: argparse.Namespace) -> int:
    findings = [*_packages(), *_devices(), _ffmpeg(), _weights(), _disk(), *_environment()]
    if args.json:
        print(json.dumps([finding._asdict() for finding in findings]))
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            print(f"{finding.state:<8}{finding.name:<{width + 2}}{finding.detail}")
            if finding.fix:
                print(f"{'':<8}{'':<{width + 2}}fix: {finding.fix}")
    return MISSING if any(finding.state == "missing" for finding in findings) else DONE


def _packages() -> list[Finding]:
    python = platform.python_version()
    found = [
        Finding("ttvr", "ok", __version__),
        Finding("python", "ok", f"{python}, {platform.system()} {platform.machine()}"),
    ]
    for name in PACKAGES.values():
        found.append(_package(name, "missing", f"pip install {name}"))
    for name, extra in EXTRAS.items():
        found.append(_package(name, "absent", f"pip install 'ttvr[{extra}]'"))
    return found


def _package(name: str, otherwise: str, fix: str) -> Finding:
    try:
        return Finding(name, "ok", metadata.version(name))
    except metadata.PackageNotFoundError:
        return Finding(name, otherwise, "not installed", fix)


def _devices() -> list[Finding]:
    try:
        import torch
    except ImportError as error:
        return [Finding("devices", "missing", f"torch does not load: {error}", "pip install torch")]
    found = [Finding("cpu", "ok", f"{os.cpu_count()} cores, {torch.get_num_threads()} used")]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = properties.total_memory / 2**30
        found.append(Finding(f"cuda:{index}", "ok", f"{properties.name}, {memory:.0f} GiB"))
    if not torch.cuda.is_available():
        found.append(Finding("cuda", "absent", "no CUDA device; the CPU does the work"))
    if torch.backends.mps.is_available():
        found.append(Finding("mps", "ok", "Apple GPU"))
    return found


def _ffmpeg() -> Finding:
    def look() -> str:
        from ttvr.video import ffmpeg_version, find_ffmpeg

        return f"{ffmpeg_version()} at {find_ffmpeg()}"

    return _try(
        "ffmpeg", look, "apt install ffmpeg | brew install ffmpeg | pip install 'ttvr[ffmpeg]'"
    )


def _weights() -> Finding:
    def look() -> str:
        from ttvr.clip import catalog

        catalog.places()
        found = catalog.here()
        if not found:
            raise RequirementError("no checkpoint that has a name is on this machine")
        return ", ".join(f"{name} at {path}" for name, path in found.items())

    return _try("weights", look, "ttvr-weights fetch ViT-B/32")


def _try(name: str, look: Callable[[], str], fix: str) -> Finding:
    try:
        return Finding(name, "ok", look())
    except TtvrError as error:
        return Finding(name, "missing", str(error).splitlines()[0], fix)
    except ImportError as error:
        return Finding(name, "missing", f"cannot be looked for: {error}", "pip install ttvr")


def _disk() -> Finding:
    free = shutil.disk_usage(".").free / 2**30
    detail = f"{free:.1f} GiB free here"
    if free < ENOUGH_DISK_GIB:
        return Finding("disk", "missing", detail, f"free {ENOUGH_DISK_GIB:.0f} GiB")
    return Finding("disk", "ok", detail)


def _environment() -> list[Finding]:
    return [Finding(name, "ok", os.environ[name]) for name in VARIABLES if name in os.environ]
