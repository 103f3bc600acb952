"""`ttvr-data`: what is done to datasets before anything is trained or extracted."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from ttvr.commands import _options
from ttvr.commands._data_check import add_check
from ttvr.commands._data_compress import add_compress
from ttvr.commands._data_export import add_export
from ttvr.commands._data_import import add_import
from ttvr.commands._progress import Progress
from ttvr.commands._run import DONE, execute, parser
from ttvr.commands._target import new_folder
from ttvr.commands._verbs import Verbs, run_verb
from ttvr.errors import RequirementError, UsageError
from ttvr.files import written

if TYPE_CHECKING:
    from ttvr.records import Clip, Split

FORMATS = {"mp4": ".mp4", "images": ""}
GT, CAPTIONS = "gt.tsv", "captions.txt"
_AHEAD = 2  # clips waiting for each that is drawn


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return execute(_parser(), run_verb, argv)


def _parser() -> argparse.ArgumentParser:
    made = parser(
        "data",
        summary="Check and prepare datasets; features as files per video, and back.",
        examples=(
            "ttvr-data check --data msrvtt:9k --root MSRVTT/",
            "ttvr-data compress ~/Videos -o small/",
            "ttvr-data export feats/ --per-video -o files/",
            "ttvr-data import files/ -o feats/ -w ViT-B/32",
            "ttvr-data synth -o synth/",
            "ttvr-data synth -o few/ --limit 60 --format images",
        ),
        resumes=True,
    )
    verbs = Verbs(made)
    add_check(verbs)
    add_compress(verbs)
    add_export(verbs)
    add_import(verbs)
    summary = (
        "draw the synthetic clips to files, with gt.tsv for `ttvr-eval --gt` and captions.txt for "
        "`ttvr-rank`; finished files are kept. stdout: the folder"
    )
    one = verbs.add(
        _synth, summary, "synth -o synth/ --split test", "jobs", "overwrite", "progress", "json"
    )
    one.add_argument("-o", "--out", required=True, metavar="DIR", help="folder of the clips")
    one.add_argument("--split", default="test", metavar="NAME", help="train, val, test or twins")
    one.add_argument(
        "--limit", type=_options.positive, metavar="N", help="only the first so many clips"
    )
    one.add_argument(
        "--format",
        choices=tuple(FORMATS),
        default="mp4",
        help="mp4: a video each; images: a folder of PNG files each, which takes no ffmpeg",
    )
    return made


def _synth(args: argparse.Namespace) -> int:
    from ttvr import plugins, video

    dataset = plugins.load("datasets", "synthetic")
    split = dataset.load(None, args.split, limit=args.limit)
    if args.format == "mp4":
        try:
            video.find_ffmpeg()
        except RequirementError as error:
            raise RequirementError(f"{error}, or pass --format images, which takes none") from None
    out = new_folder(args.out)
    captions = "".join(f"{caption}\n" for caption in split.captions)
    lists = {out / GT: _truth(split), out / CAPTIONS: captions}
    lists = {path: text for path, text in lists.items() if not _is_listed(path, text)}
    missing = [
        clip
        for clip in split.clips
        if not _is_there(out, clip, suffix=FORMATS[args.format]) or args.overwrite
    ]
    out.mkdir(parents=True, exist_ok=True)

    def write(clip: Clip) -> None:
        dataset.write(clip, out / f"{clip.id}{FORMATS[args.format]}")

    began, total = time.perf_counter(), len(split.clips)
    with Progress("clips", total=total, mode=args.progress, quiet=args.quiet) as progress:
        if kept := total - len(missing):
            progress.step(skipped=kept)
        _work(write, missing, args.jobs or _options.default_jobs(), on_step=progress.step)
    seconds = time.perf_counter() - began
    for path, text in lists.items():
        _write_text(path, text)
    if args.json:
        drawn = len(missing)
        facts = {"out": str(out), "split": split.name, "format": args.format, "clips": total}
        facts |= {"drawn": drawn, "kept": total - drawn, "seconds": seconds}
        facts |= {"seconds_per_clip": seconds / drawn if drawn else None}
        sys.stdout.write(json.dumps(facts) + "\n")
    else:
        sys.stdout.write(f"{out}\n")
    return DONE


def _truth(split: Split) -> str:
    """The lines of `gt.tsv`."""
    return "".join(
        f"{caption}\t{split.clips[owner].id}\n"
        for caption, owner in zip(split.captions, split.owner, strict=True)
    )


def _is_listed(path: Path, text: str) -> bool:
    """Whether the list that is there holds all lines of this one; it may hold more.

    Raises:
        UsageError: it is of other clips, which the folder then has as well, or the user's own.
    """
    if not path.exists():
        return False
    old, new = set(path.read_bytes().splitlines()), set(text.encode().splitlines())
    if new <= old:
        return True
    if old <= new:
        return False
    raise UsageError(f"{path} is of other clips; name another folder, or move it away")


def _is_there(out: Path, clip: Clip, *, suffix: str) -> bool:
    """Whether a clip is drawn already.

    Raises:
        UsageError: it is there in another format, and two files would have one id.
    """
    for other in set(FORMATS.values()) - {suffix}:
        if (path := out / f"{clip.id}{other}").exists():
            raise UsageError(f"{path} is there in another --format; name another folder")
    return (out / f"{clip.id}{suffix}").exists()


def _work(
    write: Callable[[Clip], None],
    clips: Iterable[Clip],
    jobs: int,
    *,
    on_step: Callable[[], None],
) -> None:
    """Write clips, `jobs` at once; the encoders are processes, so threads are enough."""
    waiting: deque[Future[None]] = deque()
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="draw")

    def finish() -> None:
        waiting.popleft().result()
        on_step()

    try:
        for clip in clips:
            waiting.append(pool.submit(write, clip))
            if len(waiting) > jobs * _AHEAD:
                finish()
        while waiting:
            finish()
    finally:
        # An error or Ctrl-C: what is begun takes a fraction of a second, the rest is not begun.
        pool.shutdown(cancel_futures=True)


def _write_text(path: Path, text: str) -> None:
    with written(path) as partial:
        partial.write_text(text, encoding="utf-8")
