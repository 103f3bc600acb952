"""A folder is a registry: each public file of `ttvr/<family>/` is one plug-in."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from ttvr.errors import UsageError
from ttvr.wording import meant

_PACKAGE = Path(__file__).parent


def names(family: str) -> list[str]:
    """Names of the plug-ins of a family, sorted, without importing any of them.

    Args:
        family: a folder of the package: "heads", "bench", ...

    Raises:
        ValueError: there is no such family.
    """
    folder = _PACKAGE / family
    if not folder.is_dir():
        raise ValueError(f"no plug-in family {family!r}")
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def load(family: str, name: str) -> Any:
    """The object that the plug-in's file binds to `PLUGIN`.

    Raises:
        UsageError: no plug-in of that name; the message lists those there are.
    """
    choices = names(family)
    if name not in choices:
        near = meant(name, choices)
        raise UsageError(f"no {family} plug-in {name!r}; there are: {', '.join(choices)}{near}")
    return import_module(f"ttvr.{family}.{name}").PLUGIN


def construct(plugin: Callable[..., Any], options: dict[str, Any], **sizes: Any) -> Any:
    """Call a plug-in with options given by the user, checked against its signature.

    Args:
        plugin: a class or function that takes keyword arguments.
        options: the user's choices; unknown names are refused.
        sizes: what the caller supplies and every plug-in of the family takes.

    Raises:
        UsageError: an unknown option; the message lists those there are.
    """
    require_options(plugin, options, sizes)
    return plugin(**sizes, **options)


def require_options(
    plugin: Callable[..., Any], options: Iterable[str], sizes: Iterable[str]
) -> None:
    """Refuse options that a plug-in does not have.

    Args:
        plugin: as `construct`.
        options: names that the user gave.
        sizes: names that are no option, because the caller supplies them.

    Raises:
        UsageError: an unknown option; the message lists those there are.
    """
    known = [name for name in inspect.signature(plugin).parameters if name not in sizes]
    if unknown := sorted(set(options) - set(known)):
        have = ", ".join(known) or "none"
        raise UsageError(
            f"unknown option {', '.join(unknown)} of {plugin.__name__}; it has: {have}"
        )


def beyond_defaults(plugin: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a plug-in that are not what it has by itself; all have to be its own."""
    parameters = inspect.signature(plugin).parameters
    return {name: value for name, value in options.items() if parameters[name].default != value}
