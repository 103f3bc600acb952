"""ttvr-extract: videos to a folder of features, or texts to one."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ttvr.commands import _left_out, _options
from ttvr.commands._extract_model import load_model, provenance
from ttvr.commands._extract_options import SOURCE, SPLIT, check, extract_parser
from ttvr.commands._extract_texts import run_texts
from ttvr.commands._progress import Progress
from ttvr.commands._run import DONE, FAILED, PARTIAL, execute
from ttvr.commands._toy import warn_of_toy
from ttvr.errors import RequirementError, UsageError
from ttvr.wording import counted

if TYPE_CHECKING:
    from ttvr.extract import Inputs, Options, Summary
    from ttvr.recipes import Recipe
    from ttvr.store import Source

_GIB = 1 << 30

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Extract features; the exit code is returned."""
    return execute(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    return extract_parser()


def _run(args: argparse.Namespace) -> int:
    check(args)
    if args.json:  # a path that is not UTF-8 is an escape that json reads back to the same path
        sys.stdout.reconfigure(errors="backslashreplace")
    # Nothing above needs these: wrong use is answered before torch is imported.
    from ttvr.clip import weights

    with _terminable():
        if args.text is not None:
            weights.locate(args.weights)
            return run_texts(args)
        if not args.dry_run:
            weights.locate(args.weights)
        inputs = _inputs(args)
        if inputs.skipped:
            log.info(
                "below the folders passed over, as no video: %s", counted(inputs.skipped, "file")
            )
        return _list(args, inputs) if args.dry_run else _extract(args, inputs)


def _inputs(args: argparse.Namespace) -> Inputs:
    from ttvr import extract

    if args.data is None:
        return extract.find_inputs(args.paths, listed=_listed(args), root=args.root)
    split = args.split or SPLIT
    return extract.dataset_inputs(
        args.data, split, root=args.root, limit=args.limit, missing=args.missing
    )


def _extract(args: argparse.Namespace, inputs: Inputs) -> int:
    from ttvr import extract

    began = time.monotonic()
    found = _ffmpeg([item.clip.path for item in inputs.items]) if inputs.has_files else None
    dropped = _check_output(args, inputs)
    retriever = load_model(args)
    warn_of_toy(retriever.note, (item.clip.id for item in inputs.items))
    options = _options_of(args, retriever.recipe, inputs)
    if args.patches:
        each = extract.Encoder(retriever, options).row_bytes()
        whole = each * len(inputs.items) / _GIB
        log.warning("patches: %d bytes per video, %.3g GiB in all", each, whole)
    with Progress(
        "videos", total=len(inputs.items), mode=args.progress, quiet=args.quiet
    ) as progress:
        summary = extract.run(
            inputs.items,
            Path(args.out),
            retriever=retriever,
            options=options,
            provenance={**provenance(retriever), "ffmpeg": found},
            read=inputs.read,
            data=inputs.data,
            resume=args.resume,
            overwrite=args.overwrite,
            retry_failed=args.retry_failed,
            on_step=lambda status, kept: progress.step(
                failed=status == "failed", skipped=int(kept)
            ),
        )
    return _report(args, summary, inputs, len(dropped), time.monotonic() - began)


def _check_output(args: argparse.Namespace, inputs: Inputs) -> list[Source]:
    """What the run will drop from the output: rows whose videos are no longer among the inputs.

    Raises:
        UsageError, IncompatibleError: the run would refuse the output, as far as that can be told
            without the weights.
    """
    from ttvr import extract, store
    from ttvr.recipes import Recipe

    unknown = [name for name in ("frames", "sampler", "fps") if getattr(args, name) is None]
    options = _options_of(args, Recipe(), inputs)
    shared = extract.shared_without_weights(options, unknown=unknown, data=inputs.data)
    folder = Path(args.out)
    store.check_usable(folder, shared, resume=args.resume, overwrite=args.overwrite)
    if args.overwrite:
        return []
    return store.departed(folder, [item.source for item in inputs.items])


def _options_of(args: argparse.Namespace, recipe: Recipe, inputs: Inputs) -> Options:
    """Flags, and where one is not given, what the weights were trained with."""
    from ttvr.extract import Options

    return Options(
        frames=args.frames or recipe.frames,
        sampler=args.sampler or recipe.sampler,
        fps=None if args.fps == SOURCE else args.fps or recipe.fps,
        exact_resize=args.exact_resize,
        drawn=not inputs.has_files,
        keep_frames=not args.no_frames,
        patches=args.patches,
        dtype=args.dtype,
        shard_rows=args.shard_rows,
        precision=args.precision,
        batch_size=args.batch_size,
        # Drawing is Python, one thread at a time; decoding is in processes of its own.
        jobs=args.jobs or (_options.default_jobs() if inputs.has_files else 1),
        timeout=args.timeout,
    )


def _ffmpeg(paths: Sequence[Path]) -> str | None:
    """Version of the ffmpeg that will decode; None where Pillow reads everything.

    Raises:
        RequirementError: there is none, and a video needs it.
    """
    from ttvr import video

    try:
        return video.ffmpeg_version()
    except RequirementError:
        if all(path.is_dir() or path.suffix.lower() in (".gif", ".webp") for path in paths):
            return None
        raise


def _report(
    args: argparse.Namespace, summary: Summary, inputs: Inputs, dropped: int, seconds: float
) -> int:
    for problem in summary.problems:
        again = problem.kept and problem.status == "failed"
        hint = " (from an earlier run; --retry-failed tries it again)" if again else ""
        print(f"{problem.path}: {problem.status}: {problem.reason}{hint}", file=sys.stderr)
    _list_left_out(inputs)
    counts = summary.meta["counts"]
    others = [(summary.kept, "kept"), (dropped, "dropped: no longer among the inputs")]
    others.append((len(inputs.unnamed), "left out: names that cannot be ids"))
    others.append((len(inputs.absent), "missing"))
    log.info(
        "%s in %s (%d ok, %d partial, %d failed)%s, %.1f s",
        *(counted(summary.meta["count"], "video"), args.out, *counts.values()),
        "".join(f", {count} {what}" for count, what in others if count),
        seconds,
    )
    if args.json:
        facts = {
            "out": args.out,
            "count": summary.meta["count"],
            "counts": counts,
            "kept": summary.kept,
            "dropped": dropped,
            "skipped": inputs.skipped,
            "unnamed": [str(path) for path, _ in inputs.unnamed],
            "missing": list(inputs.absent),
            "seconds": round(seconds, 3),
            "problems": [problem._asdict() for problem in summary.problems],
        }
        print(json.dumps(facts, ensure_ascii=False))
    else:
        print(args.out)
    if not summary.meta["count"]:
        print("ttvr-extract: no input gave features", file=sys.stderr)
        return FAILED
    if summary.problems or inputs.unnamed or inputs.absent:
        return FAILED if args.strict else PARTIAL
    return DONE


def _list(args: argparse.Namespace, inputs: Inputs) -> int:
    """What a run would do: no weights are needed, nothing is written.

    Raises:
        UsageError, IncompatibleError: as the run would; settings that are the weights' own are
            not compared.
    """
    from ttvr import store

    dropped = _check_output(args, inputs)
    there = {} if args.overwrite else store.known(Path(args.out))
    rows = []
    for _, source in inputs.items:
        status = there.get(source)
        redo = status is None or (status == "failed" and args.retry_failed)
        rows.append(_row("make" if redo else "keep", source))
    rows += [_row("drop", source) for source in dropped]
    _list_left_out(inputs)
    if args.json:
        unnamed = [str(path) for path, _ in inputs.unnamed]
        missing = list(inputs.absent)
        facts = {"out": args.out, "items": rows, "unnamed": unnamed, "missing": missing}
        print(json.dumps(facts, ensure_ascii=False))
    else:
        for row in rows:
            print(*row.values(), sep="\t")
    counts = Counter(row["action"] for row in rows)
    log.info(
        "%d to make, %d to keep, %d to drop; nothing was written",
        *(counts[action] for action in ("make", "keep", "drop")),
    )
    return DONE


def _row(action: str, source: Source) -> dict[str, str]:
    return {"action": action, "id": source.id, "path": str(Path(source.root, source.path))}


def _list_left_out(inputs: Inputs) -> None:
    _left_out.tell(inputs.absent, "missing")
    for path, reason in inputs.unnamed:
        # Quoted: a name may hold a line break, or bytes that no terminal shows.
        failure = f"failed: its name cannot be an id ({reason}); rename it"
        print(f"{str(path)!r}: {failure}", file=sys.stderr)


def _listed(args: argparse.Namespace) -> list[str]:
    if not args.files_from:
        return []
    content = (
        sys.stdin.buffer.read() if args.files_from == "-" else Path(args.files_from).read_bytes()
    )
    lines = os.fsdecode(content).split("\0" if args.null else "\n")
    if any("\0" in line for line in lines):
        raise UsageError(f"{args.files_from}: holds NUL bytes; pass -0")
    return [path for line in lines if (path := line if args.null else line.removesuffix("\r"))]


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does: decoders are killed, the state is saved, exit 130."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
