"""The line below every result: what was measured, on what, by which model, with which versions."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

from ttvr import __version__
from ttvr.commands._eval_normalize import protocol_of
from ttvr.commands._table import ties
from ttvr.wording import counted

if TYPE_CHECKING:
    from pathlib import Path

    from ttvr.recipes import Recipe
    from ttvr.train import AnyData, Options, Outcome


def versions() -> dict[str, str]:
    """Of what computed a result."""
    import numpy as np
    import torch

    found = {"ttvr": __version__, "torch": torch.__version__, "numpy": np.__version__}
    return {**found, "python": platform.python_version()}


def in_words(facts: dict[str, Any], found: dict[str, Any] | None) -> str:
    """One line.

    Args:
        facts: as `evaluate.Result.protocol`, with "versions".
        found: as `metrics.summary`; None: nothing was measured, and only the rest is told.
    """
    parts = [f"split {facts['split']} sha256:{facts['sha256']}"]
    if found is not None:
        coverage, missing = facts["coverage"], facts["missing"]
        parts += [
            f"queries {counted(facts['captions'], 'caption')}, "
            f"{counted(facts['captioned_videos'], 'video')}",
            f"candidates {counted(facts['candidates'], 'video')}",
            f"coverage {coverage['found']}/{counted(coverage['expected'], 'video')}"
            + (f" (missing: {missing})" if missing else ""),
            ties(found),
        ]
    if facts["normalize"]:
        parts.append(protocol_of(facts["normalize"]))
    model, pixels = facts["model"], facts["preprocess"]
    parts += [
        f"model {model['source']} {model['fingerprint'][:19]} head {model['head']}"
        + (f" ({model['note']})" if model.get("note") else ""),
        f"frames {pixels['frames']} {pixels.get('sampler', 'of an unknown sampler')}"
        + (f" {pixels['hash'][:19]}" if "hash" in pixels else ""),
        _selection(facts["selection"]),
        "seed none" if facts["seed"] is None else f"seed {facts['seed']}",
        ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
    ]
    return " | ".join(parts)


def of_training(
    outcome: Outcome, data: AnyData, recipe: Recipe, options: Options, best: Path
) -> dict[str, Any]:
    """The protocol of a training that is over, with the keys of `evaluate.Result.protocol`.

    Args:
        outcome: of the training.
        data: it learned from, and was validated on.
        recipe: its settings.
        options: how it ran.
        best: the file of the model that is kept.
    """
    from ttvr import retriever, train

    split, found = data.val or data.train, outcome.metrics
    chosen = train.selection(recipe, options, step=outcome.step, steps=outcome.steps)
    seed = chosen.pop("seed")
    measured: dict[str, Any] = {}
    if found is not None:
        asked, absent = found["v2t"]["queries"], data.absent
        measured = {
            "captions": found["t2v"]["queries"],
            "captioned_videos": asked,
            "candidates": found["videos"],
            "coverage": {"found": asked, "expected": asked + absent},
            "tie_fraction": {way: found[way]["tie_fraction"] for way in ("t2v", "v2t")},
            "missing": "skip" if absent else None,
        }
    return {
        "split": split.name,
        "sha256": train.sha256(split),
        **measured,
        "selection": chosen,
        "seed": seed,
        "model": retriever.load(best, is_for_texts=True).identity(),
        "preprocess": {"frames": recipe.frames, "sampler": recipe.sampler},
        "normalize": None,
        "versions": versions(),
    }


def _selection(facts: dict[str, Any] | None) -> str:
    if facts is None:
        return "selection none"
    chosen = f"best on {facts['on']}" if facts["select"] == "best" else facts["select"]
    return f"selection {chosen}, after step {facts['step']} of {facts['steps']}"
