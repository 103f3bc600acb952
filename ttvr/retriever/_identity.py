"""What belongs together: the model of a feature folder, and another one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ttvr.errors import IncompatibleError

FINGERPRINT_SHOWN = len("sha256:") + 12


def require_same(
    made_with: Mapping[str, Any], found: Mapping[str, Any], key: str, *, folder: Path, what: str
) -> None:
    """Refuse a model, or features, that do not belong with those of a folder.

    Args:
        made_with: the `model` entry of the folder's `meta.json`.
        found: that of the model or of other features.
        key: "space" for vectors, "base" for frames, patches and words.
        folder: named in the error.
        what: what `found` describes, named in the error.

    Raises:
        IncompatibleError: they differ; both are described.
    """
    if made_with[key] != found[key]:
        raise IncompatibleError(
            f"{folder} was made with {_described(made_with)}, {what} with {_described(found)}: "
            f"{_remedy(made_with, found)}"
        )


def _remedy(made_with: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """What to do: other weights do not mend another token reduction."""
    alike = all(made_with[key] == found[key] for key in ("fingerprint", "activation"))
    if alike and made_with["reduce"] != found["reduce"]:
        reduce = " ".join(f"--reduce {part}" for part in made_with["reduce"] or ["none"])
        return f"they differ in token reduction; extract the other again with {reduce}"
    return "pass the weights that made the folder with -w, or extract again with these"


def _described(model: Mapping[str, Any]) -> str:
    reduce = " ".join(model["reduce"]) or "none"
    return (
        f"{model['source']} ({model['arch']}, {model['activation']}, head {model['head']}, "
        f"reduce {reduce}, {model['fingerprint'][:FINGERPRINT_SHOWN]})"
    )
