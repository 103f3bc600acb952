"""X-Pool."""

from __future__ import annotations

from ttvr.recipes._entry import Entry
from ttvr.recipes._recipe import Recipe

_SOURCE = "Gorti et al., X-Pool (2022)"
_NOTE = (
    "the frames of training, AdamW's betas and eps and the precision are not known here; the "
    "authors keep the model that is best on the test split, by a mean over 5 validations"
)


def _entry(data: str, *, lr: float = 1e-5, dropout: float = 0.4) -> Entry:
    recipe = Recipe(
        head="xpool",
        head_options=(("dropout", dropout),),
        frames=12,
        words=77,
        epochs=5,
        batch_size=32,
        lr=lr,
        clip_lr=1e-6,
        decay="all",
    )
    return Entry(recipe, data, "test", _SOURCE, _NOTE)


ENTRIES = {
    "xpool-msrvtt9k-b32": _entry("msrvtt:9k", lr=3e-5, dropout=0.3),
    "xpool-msrvtt7k-b32": _entry("msrvtt:7k"),
    "xpool-msvd-b32": _entry("msvd"),
}
