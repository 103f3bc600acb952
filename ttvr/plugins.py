"""A folder is a registry: each public file of `ttvr/<family>/` is one plug-in."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints

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
        options: the user's choices; unknown names and values of another type are refused.
        sizes: what the caller supplies and every plug-in of the family takes.

    Raises:
        UsageError: an unknown option; the message lists those there are. Or a value of another
            type, as of `typed`.
    """
    require_options(plugin, options, sizes)
    return plugin(**sizes, **typed(plugin, options))


def typed(plugin: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a plug-in in the types that it takes; unknown ones stay as they are.

    Raises:
        UsageError: a value is of another type. An integer is a float too, a truth value no integer.
    """
    hints = get_type_hints(plugin.__init__ if inspect.isclass(plugin) else plugin)
    return {
        name: _typed(name, value, hints[name]) if name in hints else value
        for name, value in options.items()
    }


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
        have = (", ".join(known) or "none") + meant(unknown[0], known)
        raise UsageError(
            f"unknown option {', '.join(unknown)} of {plugin.__name__}; it has: {have}"
        )


def beyond_defaults(plugin: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a plug-in that are not what it has by itself; all have to be its own."""
    parameters = inspect.signature(plugin).parameters
    return {name: value for name, value in options.items() if parameters[name].default != value}


def _typed(name: str, value: Any, hint: Any) -> Any:
    kinds = get_args(hint) or (hint,)
    if float in kinds and type(value) is int:
        value = float(value)
    is_finite = not isinstance(value, float) or math.isfinite(value)
    if type(value) not in kinds or not is_finite:
        expected = " or ".join("none" if kind is type(None) else kind.__name__ for kind in kinds)
        written = value if isinstance(value, str) else json.dumps(value)
        raise UsageError(f"{name} is {expected}, got {'none' if value is None else written}")
    return value
