"""CLIP-based text-video retrieval: names are resolved on first use, so importing costs nothing."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {"load": "ttvr.retriever", "rank": "ttvr.search"}

__all__ = ["__version__", "load", "rank"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'ttvr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
