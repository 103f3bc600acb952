"""What `ttvr-train --data` learns from."""

from __future__ import annotations

import argparse
import logging
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ttvr.commands import _options
from ttvr.commands._target import new_folder
from ttvr.errors import UsageError
from ttvr.wording import counted

if TYPE_CHECKING:
    from ttvr.records import Clip, Split
    from ttvr.train import AnyData

log = logging.getLogger(__name__)


def of_dataset(args: argparse.Namespace) -> tuple[AnyData, int]:
    """The splits of a dataset, and how many of their clips are read at once.

    Raises:
        UsageError: as `Dataset.load`; or there is no split to choose the best model by.
        TtvrError: annotations or videos are missing.
    """
    from ttvr import datasets, distributed, train

    dataset, root = datasets.load(args.data), Path(args.root) if args.root else None
    splits = dataset.splits_of(root)
    val = args.val_split or ("val" if "val" in splits else None)
    if val is None and args.select == "best":
        has = ", ".join(splits)
        raise UsageError(
            f"{dataset.name} has no validation split to choose the best model by: pass --select "
            f"last, or --val-split NAME (it has: {has}; results say so if test chooses)"
        )

    def load(split: str, limit: int | None) -> Split:
        found = dataset.load(root, split, limit=limit)
        return datasets.require_all(datasets.coverage(found)) if dataset.needs_root else found

    learned = load("train", args.limit)
    ranked = None if val is None else load(val, args.eval_limit)
    read = dataset.read
    if args.cache:
        if not dataset.needs_root:
            raise UsageError(f"{dataset.name} draws its clips, nothing is decoded: drop --cache")
        folder = new_folder(args.cache)
        if not args.dry_run:  # which writes nothing
            folder.mkdir(parents=True, exist_ok=True)
            clips = [*learned.clips, *(ranked.clips if ranked else ())]
            tell = partial(_say_size, folder, clips) if distributed.leads() else _nothing
            read = datasets.cached(read, folder, on_first=tell)
    data = train.Data(dataset.name, read, learned, ranked)
    # Drawing is Python, one thread at a time; decoding is in processes of its own.
    most = max(1, _options.default_jobs() // distributed.local()[1]) if dataset.needs_root else 1
    return data, args.jobs or most


def _say_size(folder: Path, clips: list[Clip], size: int) -> None:
    """Log how large the cached frames of all clips will be, and what there is room for.

    Args:
        folder: of the cache.
        clips: those of all splits; one that is in several has its frames once.
        size: side of the frames, pixels.
    """
    from ttvr import datasets

    own = list({(clip.path, clip.start, clip.end): clip for clip in clips}.values())
    frames = datasets.frames_of(own)
    takes, free = frames * size**2 * 3 / 1e9, shutil.disk_usage(folder).free / 1e9
    text = "%s: all frames of %s, about %d, take %.1f GB at %d pixels; %.1f GB are free%s"
    hint = "; ttvr-data compress makes them fewer" if takes > free else ""
    log.info(text, folder, counted(len(own), "clip"), frames, takes, size, free, hint)


def _nothing(size: int) -> None:
    del size
