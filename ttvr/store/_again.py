"""The command that makes a feature folder once more, with arrays it lacks."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ttvr.store._features import Features

DRAWN = "data:"
"""Before a dataset's split, in place of the root folder of clips that are no files."""

_NAME = "ttvr-extract"
_ADDS = {"frames": "--no-frames", "patches": "--no-patches"}
"""What keeps an array out of a folder."""
_DTYPES = {"<f2": "float16", "<f4": "float32"}


def extract_again(features: Features, *, lacking: tuple[str, ...]) -> str:
    """What to type so that a folder of videos holds arrays it lacks, as a line for a shell.

    It is the command that made the folder, where that is known, else one with the same settings.

    Args:
        features: of the folder.
        lacking: "frames", "patches" or both.
    """
    words = _typed(features.meta["provenance"]) or _spelled(features)
    unwanted = {*(_ADDS[name] for name in lacking), "--overwrite", "--patches"}
    kept = [word for word in words if word not in unwanted]
    patches = "patches" in lacking or features.patches is not None
    return shlex.join([*kept, *(["--patches"] if patches else []), "--overwrite"])


def _typed(provenance: Mapping[str, Any]) -> list[str]:
    """The command line that is on record; nothing where another program made the folder."""
    program, *arguments = shlex.split(provenance.get("argv", "")) or [""]
    if Path(program).name == "__main__.py" and arguments[:1] == ["extract"]:
        return [_NAME, *arguments[1:]]
    return [_NAME, *arguments] if Path(program).name == _NAME else []


def _spelled(features: Features) -> list[str]:
    """A command with the settings of a folder."""
    meta = features.meta
    model, preprocess = meta["model"], meta["preprocess"]
    ends = ["-o", str(features.path), "-w", model["source"], "--head", model["head"]]
    if "sampler" not in preprocess:  # frames that were imported: from which videos, nobody told
        return [_NAME, "VIDEOS...", *ends]
    words = [_NAME, *_inputs(meta), *ends, "--frames", str(preprocess["frames"])]
    words += ["--sampler", preprocess["sampler"]]
    words += ["--fps", "source" if preprocess.get("fps") is None else str(preprocess["fps"])]
    for stage in model["reduce"] or ["none"]:
        words += ["--reduce", stage]
    if preprocess.get("resize") == "pil-bicubic":
        words.append("--exact-resize")
    return [*words, "--dtype", _DTYPES[meta["dtype"]]]


def _inputs(meta: Mapping[str, Any]) -> list[str]:
    """What the videos are, for the command: folders, or a dataset's split."""
    roots, data = meta["roots"], meta.get("data")
    if data is None:
        return roots
    # Clips that are drawn lie in no folder; files may be linked from others than the dataset's.
    lies = [] if roots[0].startswith(DRAWN) else ["--root", roots[0]]
    return ["--data", data["dataset"], "--split", data["split"], *lies]
