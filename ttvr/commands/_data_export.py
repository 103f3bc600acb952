"""ttvr-data export: a feature folder as files per video."""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path

from ttvr.commands._progress import Progress
from ttvr.commands._run import DONE
from ttvr.commands._target import new_folder
from ttvr.commands._verbs import Verbs
from ttvr.errors import UsageError
from ttvr.wording import counted

log = logging.getLogger(__name__)


def add_export(verbs: Verbs) -> None:
    """Add the verb `export` to `ttvr-data`."""
    summary = (
        "write the frames of every video of a feature folder to a file of its own, as "
        "clip-video-encode lays them out: ID.npy [frames, width] and ID.json with what is known of "
        "the video; ttvr-features.json, beside them, is for the way back; files that are as they "
        "should be are kept. stdout: the folder"
    )
    one = verbs.add(
        _export, summary, "export feats/ --per-video -o files/", "overwrite", "progress", "json"
    )
    one.add_argument("features", metavar="FEATS", help="folder of video features")
    one.add_argument(
        "--per-video", action="store_true", help="two files per video; there is no other layout yet"
    )
    one.add_argument("-o", "--out", required=True, metavar="DIR", help="folder of the files")


def _export(args: argparse.Namespace) -> int:
    if not args.per_video:
        raise UsageError("export in which layout? pass --per-video: ID.npy and ID.json per video")
    out = new_folder(args.out)
    if out.resolve().is_relative_to(Path(args.features).resolve()):
        raise UsageError(f"{out} lies within the features {args.features}; name another -o")
    from ttvr import store

    features = store.Features.open(args.features)
    if features.patches is not None:
        log.info("patches of %s stay behind: the layout has frames alone", args.features)
    began = time.monotonic()
    shown = Progress("videos", total=len(features), mode=args.progress, quiet=args.quiet)
    with shown as progress:
        done = store.export_per_video(
            features,
            out,
            overwrite=args.overwrite,
            on_step=lambda kept: progress.step(skipped=int(kept)),
        )
    seconds = time.monotonic() - began
    log.info(
        "%s in %s (%d written, %d kept), %.1f s",
        counted(len(features), "video"),
        out,
        *done[:2],
        seconds,
    )
    facts = {"out": args.out, "count": len(features), **done._asdict(), "seconds": seconds}
    print(json.dumps(facts, ensure_ascii=False) if args.json else args.out)
    return DONE
