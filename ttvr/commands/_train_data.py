"""What `ttvr-train --data` learns from."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ttvr.commands import _options
from ttvr.errors import UsageError

if TYPE_CHECKING:
    from ttvr.records import Split
    from ttvr.train import AnyData


def of_dataset(args: argparse.Namespace) -> tuple[AnyData, int]:
    """The splits of a dataset, and how many of their clips are read at once.

    Raises:
        UsageError: as `Dataset.load`; or there is no split to choose the best model by.
        TtvrError: annotations or videos are missing.
    """
    from ttvr import datasets, distributed, train

    dataset, root = datasets.load(args.data), Path(args.root) if args.root else None
    val = args.val_split or ("val" if "val" in dataset.splits else None)
    if val is None and args.select == "best":
        splits = ", ".join(dataset.splits)
        raise UsageError(
            f"{dataset.name} has no validation split to choose the best model by: pass --select "
            f"last, or --val-split NAME (it has: {splits}; of a model chosen on what it is tested "
            "on, say so)"
        )

    def load(split: str, limit: int | None) -> Split:
        found = dataset.load(root, split, limit=limit)
        return datasets.require_all(datasets.coverage(found)) if dataset.needs_root else found

    learned = load("train", args.limit)
    ranked = None if val is None else load(val, args.eval_limit)
    data = train.Data(dataset.name, dataset.read, learned, ranked)
    # Drawing is Python, one thread at a time; decoding is in processes of its own.
    most = max(1, _options.default_jobs() // distributed.local()[1]) if dataset.needs_root else 1
    return data, args.jobs or most
