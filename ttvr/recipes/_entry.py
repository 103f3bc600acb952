"""A recipe by name: what it is of, and what is known of its numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

from ttvr.recipes._recipe import Recipe

Measures = tuple[tuple[str, float], ...]


class Published(NamedTuple):
    """What the authors report of a system; an empty part is not known here.

    Attributes:
        t2v: text-to-video, (measure, value) pairs, named as `metrics.summary` does.
        v2t: video-to-text, likewise.
        sum_r: SumR of both directions.
    """

    t2v: Measures = ()
    v2t: Measures = ()
    sum_r: float | None = None

    def as_json(self) -> dict[str, Any]:
        """What is known alone, under the names of `metrics.summary`."""
        parts = {"t2v": dict(self.t2v), "v2t": dict(self.v2t), "SumR": self.sum_r}
        return {name: part for name, part in parts.items() if part}


class Entry(NamedTuple):
    """A named recipe.

    Attributes:
        recipe: the settings.
        data: the dataset that it learns from, as `--data` takes it.
        split: of the dataset, that the published numbers are of.
        source: who published the system.
        note: where the settings are not the authors', and what to know of the numbers.
        published: its numbers; empty: none are known here.
    """

    recipe: Recipe
    data: str
    split: str
    source: str
    note: str = ""
    published: Published = Published()
