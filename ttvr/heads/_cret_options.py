"""What CRET's options may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ttvr.errors import UsageError


def require_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    """Refuse what is not one of the choices.

    Raises:
        UsageError: it is not.
    """
    if value not in choices:
        listed = ", ".join(map(str, choices))
        raise UsageError(f"{name} of cret is one of {listed}, got {value!r}")


def require_whole(name: str, value: Any, *, least: int) -> None:
    """Refuse what is not a whole number of at least `least`.

    Raises:
        UsageError: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UsageError(f"{name} of cret is a whole number from {least} on, got {value!r}")


def require_range(name: str, value: Any, *, above: float | None = None, most: float = 1e6) -> None:
    """Refuse what is not a number above `above`, or from 0 on where there is none.

    Raises:
        UsageError: it is not, or it is over `most`.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    is_low = is_number and (value < 0 if above is None else value <= above)
    if not is_number or is_low or not value <= most:
        least = "from 0" if above is None else f"above {above:g}"
        raise UsageError(f"{name} of cret is a number {least} up to {most:g}, got {value!r}")


def largest_divisor(width: int, most: int) -> int:
    """The largest divisor of `width` that is at most `most`: heads of attention."""
    return next(heads for heads in range(most, 0, -1) if width % heads == 0)
