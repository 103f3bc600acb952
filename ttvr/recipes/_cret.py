"""CRET, as a head on CLIP features."""

from __future__ import annotations

from ttvr.recipes._entry import Entry, Published
from ttvr.recipes._recipe import Recipe

_SOURCE = "Ji et al., CRET (SIGIR 2022)"
_NOTE = (
    "the published numbers are of CaiT and BERT towers, here are CLIP's, so they are no target; "
    "batch size, rates and lengths are defaults of ours, for the authors' are not known"
)
_CONTRADICTION = "; they contradict each other: R@5 above 50 with a median rank of 6"
_PROTOCOL = "; R@5 and R@10 are far off the usual curve, so a different protocol is likely"


def _entry(data: str, numbers: tuple[float, ...], *, words: int = 32, more: str = "") -> Entry:
    recipe = Recipe(
        head="cret",
        frames=8,
        train_frames=4,
        words=words,
        epochs=20,
        batch_size=64,
        lr=1e-4,
        clip_lr=5e-5,
        weight_decay=1e-3,
        schedule="linear",
        max_grad_norm=5.0,
    )
    published = Published(t2v=tuple(zip(("R@1", "R@5", "R@10", "MdR"), numbers, strict=True)))
    return Entry(recipe, data, "test", _SOURCE, _NOTE + more, published)


ENTRIES = {
    "cret-msrvtt7k-b32": _entry("msrvtt:7k", (23.9, 50.8, 63.4, 5)),
    "cret-lsmdc-b32": _entry("lsmdc", (10.0, 24.9, 33.4, 34)),
    "cret-msvd-b32": _entry("msvd", (49.0, 87.0, 95.0, 2), more=_PROTOCOL),
    "cret-didemo-b32": _entry("didemo", (21.2, 50.3, 63.5, 6), words=77, more=_CONTRADICTION),
}
