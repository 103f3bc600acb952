"""ttvr-data compress: small copies of videos, as the papers prepare theirs."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ttvr.commands import _left_out, _options
from ttvr.commands._data_check import partial
from ttvr.commands._pool import as_done
from ttvr.commands._progress import Progress
from ttvr.commands._run import DONE, FAILED, PARTIAL
from ttvr.commands._target import new_folder
from ttvr.commands._verbs import Verbs
from ttvr.errors import UsageError, VideoError
from ttvr.wording import counted

if TYPE_CHECKING:
    from ttvr.extract import Inputs

JOURNAL = "compressed.jsonl"
"""A line per copy that was made; of several for one copy the last counts."""

log = logging.getLogger(__name__)


class _Copy(NamedTuple):
    """A video and the copy that is made of it.

    Attributes:
        source: the file.
        name: of the copy, below the output.
        made_from: what a copy of an earlier run has to agree with to be kept.
    """

    source: Path
    name: str
    made_from: tuple[int | float | None, ...]


class _Result(NamedTuple):
    """What became of a copy: bytes are of the copy, `fault` says what is wrong with the video."""

    state: str
    fault: str = ""
    bytes: int = 0


def add_compress(verbs: Verbs) -> None:
    """Add the verb `compress` to `ttvr-data`."""
    summary = (
        "re-encode videos to few small frames without sound, under the same names below the output "
        "(.mp4, .m4v, .mov, .mkv, .webm, .avi and .flv keep their suffix, others become .mp4); "
        "smaller videos are scaled up; finished copies of the same video and settings are kept. "
        "stdout: the folder. Exit 3: videos are partial, or failed and have no copy (listed on "
        "stderr)"
    )
    examples = (
        "compress ~/Videos -o small/\ncompress --data msrvtt:9k --root MSRVTT/ -o MSRVTT-3fps/"
    )
    one = verbs.add(_compress, summary, examples, "jobs", "overwrite", "progress", "json")
    one.add_argument("sources", nargs="*", metavar="SRC", help="videos, or folders of them")
    _options.add_data(one, "or the videos of a dataset, whose annotations are not copied")
    one.add_argument("--root", metavar="DIR", help="folder the dataset lies in")
    one.add_argument("--split", metavar="NAME", help="of the dataset (default: all)")
    one.add_argument("-o", "--out", required=True, metavar="DST", help="folder of the copies")
    one.add_argument(
        "--fps", type=_rate, default=3.0, metavar="X", help="frames per second of the copies"
    )
    one.add_argument(
        "--size", type=_even, default=224, metavar="N", help="their short side in pixels, even"
    )
    one.add_argument(
        "--timeout",
        type=_options.seconds,
        default=600.0,
        metavar="S",
        help="seconds for one video, then it has failed",
    )


def _rate(text: str) -> float:
    """Frames per second, from one in 1000 s to 1000."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1e-3 <= value <= 1e3:
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate of 0.001 to 1000 frames/s")
    return value


def _even(text: str) -> int:
    """A short side that encoders take."""
    if not text.isdecimal() or len(text) > 4 or int(text) < 2 or int(text) % 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not an even number of 2 to 9998 pixels")
    return int(text)


def _compress(args: argparse.Namespace) -> int:
    from ttvr import video

    if bool(args.sources) == bool(args.data) or (args.data is None and (args.root or args.split)):
        raise UsageError("pass either SRC..., or --data NAME --root DIR [--split NAME]")
    out = new_folder(args.out)
    found = _inputs(args)
    copies = _copies(args, found, out)
    video.find_ffmpeg()
    kept = {} if args.overwrite else _kept(out, copies)
    out.mkdir(parents=True, exist_ok=True)
    began, results = time.monotonic(), dict(kept)

    def work(copy: _Copy, stop: threading.Event) -> _Result:
        return _make(args, copy, out / copy.name, stop)

    todo = [copy for copy in copies if copy not in kept]
    done = contextlib.closing(as_done(work, todo, jobs=args.jobs or _options.default_jobs()))
    shown = Progress("videos", total=len(copies), mode=args.progress, quiet=args.quiet)
    with shown as progress, (out / JOURNAL).open("a", encoding="utf-8") as journal, done as ready:
        if _is_torn(out / JOURNAL):
            journal.write("\n")
        if kept:
            progress.step(skipped=len(kept))
        for copy, result in ready:
            progress.step(failed=result.state == "failed")
            results[copy] = result
            if result.state != "failed":
                line = {"name": copy.name, "made_from": copy.made_from, **result._asdict()}
                journal.write(json.dumps(line) + "\n")
                # On the disk before the copy counts: a rerun after a power cut trusts this line.
                journal.flush()
                os.fsync(journal.fileno())
    return _report(args, found, results, len(kept), time.monotonic() - began)


def _inputs(args: argparse.Namespace) -> list[Inputs]:
    """What is to be re-encoded, of a dataset by split.

    Raises:
        UsageError, TtvrError: as `extract.find_inputs` and `extract.dataset_inputs`.
    """
    from ttvr import datasets, extract

    if args.data is None:
        return [extract.find_inputs(args.sources)]
    dataset = datasets.load(args.data)
    if not dataset.needs_root:
        raise UsageError(f"{dataset.name} has no files to re-encode: its clips are drawn")
    root = None if args.root is None else Path(args.root)
    return [
        extract.dataset_inputs(dataset.name, split, root=root, missing="skip")
        for split in ([args.split] if args.split else dataset.splits_of(root))
    ]


def _copies(args: argparse.Namespace, found: Iterable[Inputs], out: Path) -> list[_Copy]:
    """Each video once: clips of a dataset may be parts of one file.

    Raises:
        UsageError: the output lies within what is searched for videos, a copy would replace a
            video, two videos would have one copy, or the folder holds other files.
    """
    from ttvr import video

    target = out.resolve()
    for folder in (Path(name).resolve() for name in (*args.sources, *filter(None, [args.root]))):
        if folder.is_dir() and target.is_relative_to(folder):
            raise UsageError(f"{out} lies within {folder}, whose videos it is for; name another -o")
    if out.is_dir() and not (out / JOURNAL).exists() and any(out.iterdir()):
        raise UsageError(f"{out} holds files that are no copies of videos; name another -o")
    made: dict[str, _Copy] = {}
    for clip, source in (item for inputs in found for item in inputs.items):
        name = video.compressed_name(source.path)
        made_from = (source.size, source.mtime_ns, args.fps, args.size)
        copy = made.setdefault(name, _Copy(clip.path, name, made_from))
        if copy.source != clip.path:
            raise UsageError(f"{copy.source} and {clip.path} would both become {name}; rename one")
        if (target / name).resolve() == clip.path.resolve():
            raise UsageError(f"{clip.path} would be replaced by its copy; name another -o")
    return list(made.values())


def _kept(out: Path, copies: Iterable[_Copy]) -> dict[_Copy, _Result]:
    """Copies that an earlier run made of the same videos with the same settings, still whole."""
    path, last = out / JOURNAL, {}
    lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    for line in lines:
        # A run that was killed may have left half a line: its copy is made anew.
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            last[entry["name"]] = (
                tuple(entry["made_from"]),
                _Result(entry["state"], entry["fault"], entry["bytes"]),
            )
    kept = {}
    for copy in copies:
        made_from, result = last.get(copy.name, (None, None))
        file = out / copy.name
        if copy.made_from == made_from and file.is_file() and file.stat().st_size == result.bytes:
            kept[copy] = result
    return kept


def _is_torn(journal: Path) -> bool:
    """Whether a run that was killed left half a line."""
    content = journal.read_bytes()
    return bool(content) and not content.endswith(b"\n")


def _make(args: argparse.Namespace, copy: _Copy, target: Path, stop: threading.Event) -> _Result:
    """Make a copy; of a video that fails, one of an earlier run goes as well."""
    from ttvr import video

    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        status = video.compress(
            copy.source, target, fps=args.fps, size=args.size, timeout=args.timeout, stop=stop
        )
    except VideoError as error:
        target.unlink(missing_ok=True)
        return _Result("failed", str(error))
    fault = "" if status.state == "ok" else partial(status)
    return _Result(status.state, fault, target.stat().st_size)


def _report(
    args: argparse.Namespace,
    found: list[Inputs],
    results: dict[_Copy, _Result],
    kept: int,
    seconds: float,
) -> int:
    """List what is wrong, print the summary; the exit code is returned."""
    faults = {str(copy.source): result for copy, result in results.items() if result.fault}
    for path, result in faults.items():
        print(f"{path}: {result.state}: {result.fault}", file=sys.stderr)
    missing = {clip: reason for inputs in found for clip, reason in inputs.absent.items()}
    _left_out.tell(missing, "missing")
    unnamed = [pair for inputs in found for pair in inputs.unnamed]
    for path, reason in unnamed:
        print(f"{str(path)!r}: failed: {reason}; rename it", file=sys.stderr)
    whole = {copy: result for copy, result in results.items() if result.state != "failed"}
    facts: dict[str, Any] = {
        "out": args.out,
        "done": len(whole) - kept,
        "skipped": kept,
        "partial": [path for path, result in faults.items() if result.state != "failed"],
        "failed": {p: result.fault for p, result in faults.items() if result.state == "failed"},
        "missing": missing,
        "unnamed": [str(path) for path, _ in unnamed],
        "bytes_before": sum(copy.made_from[0] or 0 for copy in whole),
        "bytes_after": sum(result.bytes for result in whole.values()),
        "seconds": round(seconds, 3),
    }
    log.info(
        "%s in %s (%d kept, %d partial, %d failed), %.1f MB -> %.1f MB, %.1f s",
        *(
            counted(len(whole), "video"),
            args.out,
            kept,
            len(facts["partial"]),
            len(facts["failed"]),
        ),
        *(facts["bytes_before"] / 1e6, facts["bytes_after"] / 1e6, seconds),
    )
    print(json.dumps(facts, ensure_ascii=False) if args.json else args.out)
    if not whole:
        print("ttvr-data: no video could be re-encoded", file=sys.stderr)
        return FAILED
    return PARTIAL if faults or missing or unnamed else DONE
