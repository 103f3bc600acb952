"""ttvr-data check: annotations against published numbers, videos that are there and decode."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from ttvr.commands import _left_out, _options
from ttvr.commands._pool import as_done
from ttvr.commands._progress import Progress
from ttvr.commands._run import DONE, INCOMPATIBLE, PARTIAL
from ttvr.commands._verbs import Verbs
from ttvr.errors import TtvrError, UsageError, VideoError
from ttvr.wording import counted

if TYPE_CHECKING:
    from ttvr.datasets import Coverage
    from ttvr.datasets._base import Dataset
    from ttvr.records import Clip
    from ttvr.video import Status

_COLUMNS = ("split", "annotations", "counts", "videos", "captions", "present", "missing", "broken")
_SIZE = 32  # of the frame that is decoded, pixels


class _Checked(NamedTuple):
    """What is known of a split.

    Attributes:
        split: its name.
        error: what is wrong with the annotations; None where nothing is.
        counts: as `Split.counts`.
        captions: of all its videos.
        covered: which videos are there; None with wrong annotations.
        broken: ids of those that do not decode, each with the reason.
    """

    split: str
    error: str | None = None
    counts: str = ""
    captions: int = 0
    covered: Coverage | None = None
    broken: Mapping[str, str] = MappingProxyType({})


def add_check(verbs: Verbs) -> None:
    """Add the verb `check` to `ttvr-data`."""
    summary = (
        "compare annotations with the published numbers, find the videos below --root, and decode "
        "a frame of each. stdout: a table, a row per split. Exit 3: videos are missing or broken "
        "(listed on stderr); 4: annotations are wrong or missing"
    )
    examples = "check --data msrvtt:9k --root MSRVTT/\ncheck --data msvd --root MSVD/ --json"
    one = verbs.add(_check, summary, examples, "jobs", "json", "progress")
    _options.add_data(one, "which dataset", required=True)
    one.add_argument("--root", metavar="DIR", help="folder of its annotations and videos")
    one.add_argument("--split", metavar="NAME", help="of it (default: all)")
    one.add_argument(
        "--timeout",
        type=_options.seconds,
        default=60.0,
        metavar="S",
        help="seconds to decode the frame of one video, then it is broken",
    )


def _check(args: argparse.Namespace) -> int:
    from ttvr import datasets

    dataset = datasets.load(args.data)
    if not dataset.needs_root:
        raise UsageError(f"{dataset.name} has no files to check: its clips are drawn")
    root = None if args.root is None else Path(args.root)
    splits = (args.split,) if args.split else dataset.splits_of(root)
    for split in splits:
        dataset.check(root, split)
    found = [_annotations(dataset, root, split) for split in splits]
    clips = {clip: None for one in found if one.covered for clip in one.covered.split.clips}
    broken: dict[Clip, str] = {}
    jobs = args.jobs or _options.default_jobs()
    done = contextlib.closing(_decoded(dataset, list(clips), jobs=jobs, timeout=args.timeout))
    shown = Progress("videos", total=len(clips), mode=args.progress, quiet=args.quiet)
    with shown as progress, done as results:
        for clip, fault in results:
            progress.step(failed=fault is not None)
            if fault:
                broken[clip] = fault
    found = [_with_broken(one, broken) for one in found]
    for one in found:
        _tell(one)
    sys.stdout.write(_as_json(dataset, root, found) if args.json else _as_text(found))
    if any(one.error for one in found):
        return INCOMPATIBLE
    return PARTIAL if any(one.broken or one.covered.missing for one in found) else DONE


def _annotations(dataset: Dataset, root: Path, split: str) -> _Checked:
    """Load a split and look for its videos."""
    from ttvr import datasets

    try:
        made = dataset.load(root, split)
    except (TtvrError, OSError) as error:
        return _Checked(split, " ".join(str(error).split()))
    return _Checked(split, None, made.counts, len(made.captions), datasets.coverage(made))


def _decoded(
    dataset: Dataset, clips: list[Clip], *, jobs: int, timeout: float
) -> Iterator[tuple[Clip, str | None]]:
    """Each clip with what is wrong with it, as they are done; decoders are processes."""

    def decode(clip: Clip, stop: threading.Event) -> str | None:
        try:
            found = dataset.frames(clip, lambda n: [n // 2], size=_SIZE, timeout=timeout, stop=stop)
        except VideoError as error:
            return str(error)
        status = found.status
        return None if status.state == "ok" else f"partial: {partial(status)}"

    yield from as_done(decode, clips, jobs=jobs)


def partial(status: Status) -> str:
    """What is wrong with a video that is not whole."""
    seconds = "" if status.decoded_s is None else f"decodes for {status.decoded_s:.1f} s, "
    return seconds + counted(status.decoder_errors, "decoder error")


def _with_broken(one: _Checked, broken: dict[Clip, str]) -> _Checked:
    if one.covered is None:
        return one
    clips = one.covered.split.clips
    return one._replace(broken={clip.id: broken[clip] for clip in clips if clip in broken})


def _tell(one: _Checked) -> None:
    """List on stderr what is wrong."""
    if one.error:
        print(f"{one.split}: {one.error}", file=sys.stderr)
        return
    for what, faults in (("missing", one.covered.missing), ("broken", one.broken)):
        _left_out.tell(faults, what, of=f"{one.split}: ")


def _row(one: _Checked) -> dict[str, Any]:
    """The columns of the table; None where annotations are wrong."""
    if one.error:
        return dict.fromkeys(_COLUMNS) | {"split": one.split, "annotations": "wrong"}
    covered = one.covered
    numbers = (covered.expected, one.captions, len(covered.split.clips), len(covered.missing))
    values = (one.split, "ok", one.counts, *numbers, len(one.broken))
    return dict(zip(_COLUMNS, values, strict=True))


def _as_text(found: list[_Checked]) -> str:
    rows = [_row(one).values() for one in found]
    lines = [_COLUMNS, *(("-" if value is None else value for value in row) for row in rows)]
    return "".join("\t".join(map(str, line)) + "\n" for line in lines)


def _as_json(dataset: Dataset, root: Path, found: list[_Checked]) -> str:
    splits = []
    for one in found:
        covered = one.covered
        missing = {} if covered is None else dict(covered.missing)
        splits.append(
            _row(one) | {"error": one.error, "missing": missing, "broken": dict(one.broken)}
        )
    facts = {"dataset": dataset.name, "root": str(root), "splits": splits}
    return json.dumps(facts, ensure_ascii=False) + "\n"
