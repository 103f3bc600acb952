"""Videos that are missing or broken, listed on stderr as far as anyone reads."""

from __future__ import annotations

import sys
from collections.abc import Mapping

_SHOWN = 20


def tell(faults: Mapping[str, str], what: str, *, of: str = "") -> None:
    """List videos with what is wrong with them, a line each, and how many more there are.

    Args:
        faults: ids, each with the reason.
        what: they are: "missing", "broken".
        of: goes before each line: "test: ".
    """
    for number, (id, reason) in enumerate(faults.items()):
        if number == _SHOWN:
            more = len(faults) - _SHOWN
            print(f"{of}{more} more {what}; --json lists all", file=sys.stderr)
            break
        print(f"{of}{id}: {what}: {reason}", file=sys.stderr)
