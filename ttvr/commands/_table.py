"""The table of measures that every evaluation prints."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

MEASURES = ("R@1", "R@5", "R@10", "MdR", "MnR", "RSum")
_HEADER = ("direction", *MEASURES)
_NONE: Mapping[str, str] = MappingProxyType({})


def table(
    found: dict[str, Any],
    protocol: str,
    labels: Mapping[str, str] = _NONE,
    published: Sequence[str] = (),
) -> str:
    """A table, tab-separated, on a terminal with aligned columns; below it a line of protocol.

    Then comes one of the interval of R@1, where `found` has it.

    Args:
        found: as `metrics.summary`.
        protocol: what was measured, and on what.
        labels: of keys of `found`, what is added to the name of its row.
        published: rows below the measured ones.
    """
    return f"{aligned([*rows(found, labels), *published])}# {protocol}\n{_interval(found)}"


def aligned(lines: list[str]) -> str:
    """Rows below the header, in columns on a terminal."""
    text = "\n".join(["\t".join(_HEADER), *lines]) + "\n"
    return text.expandtabs(14) if sys.stdout.isatty() else text


def rows(found: dict[str, Any], labels: Mapping[str, str] = _NONE) -> list[str]:
    """The lines of a table below its header, with arguments as `table`."""
    several = "v2t_sentence" in found
    names = {"t2v": "t2v", "v2t": "v2t_group" if several else "v2t", "v2t_sentence": "v2t_sentence"}
    lines = []
    for way, plain in names.items():
        name = _labelled(plain, labels.get(way))
        if way in found:
            lines.append("\t".join((name, *(f"{found[way][measure]:.1f}" for measure in MEASURES))))
    return [*lines, f"{_labelled('SumR', labels.get('SumR'))}\t{found['SumR']:.1f}"]


def ties(found: dict[str, Any]) -> str:
    """How many queries have ties, and how they count."""
    parts = [f"{way} {100 * found[way]['tie_fraction']:.1f} %" for way in ("t2v", "v2t")]
    return f"ties {', '.join(parts)} ({found['compat'] or found['ties']})"


def _interval(found: dict[str, Any]) -> str:
    """The line of the interval; none with `compat`, and of runs from before there was one."""
    ways = [way for way in ("t2v", "v2t") if found[way].get("R@1_interval")]
    if not ways:
        return ""
    from ttvr.metrics import INTERVAL

    ends = [
        f"{way} {'..'.join(f'{end:.1f}' for end in found[way]['R@1_interval'])}" for way in ways
    ]
    how = f"{INTERVAL['method']}, {INTERVAL['resamples']} resamples"
    return f"# R@1 {INTERVAL['per_cent']} % interval {', '.join(ends)} ({how})\n"


def _labelled(name: str, label: str | None) -> str:
    return name if label is None else f"{name}_{label}"
