"""The part of `ttvr-demo` on token reduction: the same weights, with fewer tokens to look at."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from ttvr.commands import _demo_shell as shell
from ttvr.commands._run import PARTIAL

if TYPE_CHECKING:
    from ttvr.records import Split
    from ttvr.retriever import Retriever
    from ttvr.store import Features

_RUNS = 9
_COLUMNS = ("--reduce", "patches/clip", "ms/clip", "R@1", "R@5", "R@10", "MdR")


def run(
    out: Path, split: Split, asked: Sequence[int], plans: Sequence[str], again: Sequence[str]
) -> None:
    """Extract and evaluate with each plan, tell what each costs and finds, and draw what is kept.

    Args:
        out: the folder of the session, with `videos/` and `feats/`.
        split: the clips that are there.
        asked: those that sentences are asked for; the first is drawn.
        plans: token clusterings of one stage.
        again: flags of commands that make things anew.
    """
    videos = str(out / "videos")
    shell.say(
        "The same weights, and nothing trained: after block 2 of 4, k-medoids keeps some of the 48 "
        "patches\nof each of 4 segments (CenterCLIP), and the last blocks look at them alone."
    )
    folders = {"none": out / "feats"}
    for plan in plans:
        folders[plan] = out / f"feats-{plan.rpartition(',')[2]}"
        feats = str(folders[plan])
        command = ["ttvr-extract", videos, "-o", feats, "--reduce", plan, *again]
        shell.run(command, expected=PARTIAL)
        shell.run(["ttvr-eval", feats, "--gt", f"{videos}/gt.tsv"])
    shell.say("\n".join(_table(split, folders)))
    drawn = next(Path(videos).glob(f"{split.clips[asked[0]].id}*"))
    picture = str(out / "centers.png")
    shell.say("Which patches are kept, of one clip: a row for each plan.")
    flags = [word for plan in plans for word in ("--reduce", plan)]
    shell.run(["ttvr-show", "--centers", str(drawn), *flags, "-o", picture, "--overwrite"])


def _table(split: Split, folders: dict[str, Path]) -> list[str]:
    """A line per plan: what it leaves, the milliseconds of a forward pass, and text to video."""
    from ttvr.retriever import load_for
    from ttvr.store import Features

    rows = [_COLUMNS]
    for plan, folder in folders.items():
        features = Features.open(folder)
        retriever = load_for(features.meta["model"])
        left, milliseconds = _cost(retriever, features.meta["preprocess"]["frames"])
        found = _measured(retriever, features, split)
        shown = (f"{found[name]:.1f}" for name in _COLUMNS[3:])
        rows.append((plan, str(left), f"{milliseconds:.1f}", *shown))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    return [
        "What is left of a clip in the last blocks, the time of the visual tower, text to video:",
        *lines,
        "A model this small gains no time: what the blocks save, clustering takes. The larger ones "
        "of CLIP\ngain a third: ttvr-bench encode.",
    ]


def _cost(retriever: Retriever, frames: int) -> tuple[int, float]:
    """Patches of a clip in the last blocks, and the median milliseconds of encoding it."""
    import torch

    size = retriever.clip.image_size
    pixels = torch.randn(1, frames, 3, size, size, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, frames, dtype=torch.bool)
    seconds = []
    with torch.inference_mode():
        for _ in range(_RUNS):
            began = time.perf_counter()
            made = retriever.encode_video(pixels, mask)
            seconds.append(time.perf_counter() - began)
        patches = retriever.encode_video(pixels, mask, patches=True).patches
    return made.frames.shape[1] * patches.shape[2], 1000 * median(seconds)


def _measured(retriever: Retriever, features: Features, split: Split) -> dict[str, float]:
    """Text-to-video metrics of the captions of a split, as `ttvr-eval` prints them."""
    import torch

    from ttvr import metrics
    from ttvr.score import inner_products
    from ttvr.search import encode_texts

    rows = {name: row for row, name in enumerate(features.ids)}
    with torch.inference_mode():
        text = retriever.head.vector_text(encode_texts(retriever, split.captions))
    sims = inner_products(text, features.video).numpy()
    return metrics.summary(sims, [rows[split.clips[at].id] for at in split.owner])["t2v"]
