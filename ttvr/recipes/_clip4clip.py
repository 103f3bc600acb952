"""CLIP4Clip and what was built on its code: X-CLIP, DRL, UCoFiA, TS2-Net, TC-MGC."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ttvr.recipes._entry import Entry, Published
from ttvr.recipes._recipe import Recipe

_BASE = Recipe(
    frames=12,
    words=32,
    sampler="linspace",
    train_sampler="linspace",
    epochs=5,
    batch_size=128,
    lr=1e-4,
    clip_lr=1e-7,
    optimizer="bert_adam",
    eps=1e-6,
    decay="no_biases",
    schedule="warmup_cosine",
)
_LONG = replace(_BASE, frames=64, words=64, epochs=20, batch_size=64)
_FRAMES = (
    "frames are chosen among all of a video, the authors' among one per second; frozen layers and "
    "the precision are not known here: none, fp32"
)
_UNKNOWN = (
    "epochs, batch size and number of frames are TC-MGC's, the system's own are not known here; "
    f"{_FRAMES}"
)

_CLIP4CLIP = "Luo et al., CLIP4Clip (2021)"
_XCLIP = "Ma et al., X-CLIP (2022)"
_DRL = "Wang et al., DRL (2022)"
_UCOFIA = "Wang et al., UCoFiA (2023)"
_TS2NET = "Liu et al., TS2-Net (2022)"
_TC_MGC = "Jing et al., TC-MGC (arXiv 2504.04707)"

_DATA = {
    "msrvtt9k": ("msrvtt:9k", _BASE),
    "msrvtt7k": ("msrvtt:7k", _BASE),
    "msvd": ("msvd", _BASE),
    "lsmdc": ("lsmdc", _BASE),
    "didemo": ("didemo", _LONG),
    "activitynet": ("activitynet", _LONG),
}
_HEADS = ("meanp", "seq_lstm", "seq_transf", "tight_transf")


def _clip4clip() -> Iterator[tuple[str, Entry]]:
    for data, (name, base) in _DATA.items():
        split = "val1" if data == "activitynet" else "test"
        for head in _HEADS:
            made = replace(base, head=head)
            yield f"clip4clip-{data}-b32-{head}", Entry(made, name, split, _CLIP4CLIP, _UNKNOWN)


def _msrvtt(head: str, source: str, note: str, **settings: Any) -> Entry:
    """On MSR-VTT 9k with ViT-B/32."""
    return Entry(replace(_BASE, head=head, **settings), "msrvtt:9k", "test", source, note)


def _tc_mgc(data: str, published: Published, **settings: Any) -> Entry:
    base = _LONG if data == "didemo" else _BASE
    recipe = replace(base, head="tc_mgc", seed=42, **settings)
    note = f"{_FRAMES}; the authors keep the epoch that is best on the test split"
    return Entry(recipe, data, "test", _TC_MGC, note, published)


_TC_MGC_9K = Published(
    t2v=(("R@1", 47.4), ("R@5", 74.8), ("R@10", 84.2), ("MdR", 2.0), ("MnR", 12.8)),
    v2t=(("R@1", 45.9), ("R@5", 74.5), ("R@10", 83.3)),
    sum_r=410.1,
)

ENTRIES = {
    **dict(_clip4clip()),
    "xclip-msrvtt9k-b32": _msrvtt(
        "xclip", _XCLIP, f"SumR as TC-MGC's authors give it; {_FRAMES}", batch_size=300
    )._replace(published=Published(sum_r=406.3)),
    **{
        f"drl-msrvtt9k-b32-{mode}": _msrvtt(
            "drl", _DRL, _UNKNOWN, head_options=(("interaction", mode),)
        )
        for mode in ("dp", "ti", "wti")
    },
    "ucofia-msrvtt9k-b32": _msrvtt("ucofia", _UCOFIA, _FRAMES, epochs=15),
    "ts2net-msrvtt9k-b32": _msrvtt("ts2net", _TS2NET, _UNKNOWN, reduce=("patch_shift",)),
    "tc_mgc-msrvtt9k-b32": _tc_mgc("msrvtt:9k", _TC_MGC_9K),
    "tc_mgc-msrvtt9k-b16": _tc_mgc("msrvtt:9k", Published(sum_r=418.9), weights="ViT-B/16"),
    "tc_mgc-msrvtt7k-b32": _tc_mgc("msrvtt:7k", Published(sum_r=396.3)),
    "tc_mgc-didemo-b32": _tc_mgc("didemo", Published(sum_r=401.9)),
    "tc_mgc-vatex-b32": _tc_mgc("vatex", Published(sum_r=515.3)),
}
