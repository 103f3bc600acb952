"""ttvr-weights: what checkpoints there are, where they lie, and how to get and change them."""

from __future__ import annotations

import argparse
import filecmp
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ttvr.commands._convert import add_convert
from ttvr.commands._progress import Progress
from ttvr.commands._run import execute, parser
from ttvr.commands._target import new_file
from ttvr.commands._verbs import Verbs, run_verb

if TYPE_CHECKING:
    from ttvr.clip.catalog import Entry

_MEGA = 10**6
_SHOWN_HASH = 12


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return execute(_parser(), run_verb, argv)


def _parser() -> argparse.ArgumentParser:
    made = parser(
        "weights",
        summary="List, fetch, verify, convert and find checkpoints. stdout: a table, or a path.",
        examples=(
            "ttvr-weights list",
            "ttvr-weights fetch ViT-B/32",
            "ttvr-weights convert --system xclip pytorch_model.bin.4 -o xclip.pt",
            "ttvr-weights random --seed 0 -o random.pt",
        ),
    )
    verbs = Verbs(made)
    verbs.add(_list, "the names, and where their files were found", "list", "json")
    one = verbs.add(_where, "print the path of a checkpoint", "where ViT-B/32")
    one.add_argument("weights", metavar="NAME|PATH", nargs="?", default="default", help="which")
    summary = "check hash, tensors and sizes of a checkpoint"
    one = verbs.add(_verify, summary, "verify model.pt", "json")
    one.add_argument("weights", metavar="PATH|NAME", help="a checkpoint or a name")
    _add_fetch(verbs)
    add_convert(verbs)
    _add_random(verbs)
    return made


def _add_fetch(verbs: Verbs) -> None:
    summary = "download a public checkpoint"
    one = verbs.add(_fetch, summary, "fetch ViT-B/32 -o weights/", "progress")
    one.add_argument("name", metavar="NAME", help="as `ttvr-weights list` shows it")
    one.add_argument("--url", help="a mirror of the file, or file://...; its hash must be the same")
    one.add_argument("-o", "--out", metavar="DIR", help="folder; by default ~/.cache/ttvr")


def _add_random(verbs: Verbs) -> None:
    summary = "write meaningless random weights in OpenAI's format, for trying things out"
    example = "random --seed 0 -o random.pt"
    one = verbs.add(_random, summary, example, "seed", "overwrite")
    one.add_argument(
        "-o", "--out", required=True, metavar="FILE", help="a TorchScript archive, .pt"
    )
    one.add_argument(
        "--size", default="tiny", help="tiny (15 MB), ttvr-tiny (16 MB) or ViT-B/32 (303 MB)"
    )


def _list(args: argparse.Namespace) -> int:
    from ttvr.clip import catalog

    rows = []
    places = catalog.places()
    here = catalog.here()
    for entry in catalog.ENTRIES:
        name = entry.aliases[0] if entry.aliases else entry.name
        path = here.get(name)
        rows.append(
            {
                "name": name,
                "file": path.name if path else entry.file,
                "bytes": path.stat().st_size if path else None,
                "megabytes": entry.megabytes or None,
                "sha256": entry.sha256 or None,
                "path": str(path) if path else None,
                "note": catalog.label(path) if path else "",
            }
        )
    if args.json:
        print(json.dumps(rows, indent=2))
        return 0
    if not args.quiet:
        looked = ", ".join(map(str, places))
        print(f"ttvr-weights: looked in {looked}", file=sys.stderr, flush=True)
    if sys.stdout.isatty():
        print("name\tfile\tsize\tsha256\tfound at")
    for row in rows:
        size = f"{row['bytes'] / _MEGA:.1f} MB" if row["bytes"] else ""
        size = size or (f"about {row['megabytes']} MB" if row["megabytes"] else "-")
        place = f"{row['path']} {row['note']}".strip() if row["path"] else "-"
        print(row["name"], row["file"], size, (row["sha256"] or "-")[:_SHOWN_HASH], place, sep="\t")
    return 0


def _where(args: argparse.Namespace) -> int:
    from ttvr.clip.catalog import locate

    print(locate(args.weights))
    return 0


def _fetch(args: argparse.Namespace) -> int:
    from ttvr.clip import catalog, fetch

    entry = _public(args.name)
    known = catalog.here().get(entry.name) if args.out is None else None
    if known is not None and fetch.hash_of(known) == entry.sha256:
        print(known)
        return 0
    # Whole megabytes are the items: the count is what a person can follow.
    with Progress("MB", total=entry.megabytes, mode=args.progress, quiet=args.quiet) as progress:
        path = fetch.fetch(
            entry, args.out or catalog.cache(), url=args.url, report=_Megabytes(progress)
        )
    print(path)
    return 0


def _public(name: str) -> Entry:
    from ttvr.clip import catalog
    from ttvr.errors import UsageError

    entry = catalog.find(name)
    if entry is None or not entry.url:
        public = ", ".join(entry.name for entry in catalog.ENTRIES if entry.url)
        raise UsageError(f"nothing to fetch under the name {name!r}; there are: {public}")
    return entry


class _Megabytes:
    """Tells a progress line of each further megabyte; the first report may be of earlier ones."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._shown = progress, 0

    def __call__(self, have: int, total: int | None) -> None:
        """Count up to `have` bytes."""
        if self._shown == 0 and have > 2 * _MEGA:
            self._shown = have // _MEGA
            self._progress.step(skipped=self._shown)
        while self._shown < have // _MEGA:
            self._shown += 1
            self._progress.step()


def _verify(args: argparse.Namespace) -> int:
    from ttvr.clip import catalog, fetch, weights
    from ttvr.errors import TtvrError

    path = weights.locate(args.weights)
    found = fetch.hash_of(path)
    entry = catalog.find(args.weights) or catalog.find(path.name)
    wanted = entry.sha256 if entry is not None and entry.file == path.name else ""
    if wanted and found != wanted:
        mend = "install ttvr again" if entry.is_shipped else "fetch again"
        raise TtvrError(
            f"{path}: sha256 {found}, {entry.name} has {wanted}: damaged, or another file of that "
            f"name; move it away and {mend}"
        )
    checkpoint = weights.verify(args.weights)
    facts = {
        "path": str(path),
        "note": checkpoint.note or None,
        "format": checkpoint.format,
        "bytes": path.stat().st_size,
        "sha256": found,
        "known": entry.name if wanted else None,
        "arch": weights.arch(checkpoint.clip),
        "activation": checkpoint.activation,
        "parameters": sum(tensor.numel() for tensor in checkpoint.clip.values()),
        "fingerprint": weights.fingerprint(checkpoint.clip),
    }
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        for key, value in facts.items():
            print(key, "-" if value is None else value, sep="\t")
    return 0


def _random(args: argparse.Namespace) -> int:
    from ttvr.clip import weights
    from ttvr.errors import UsageError

    out = Path(args.out)
    if out.suffix != ".pt":
        raise UsageError(f"{out}: OpenAI's format is a TorchScript archive; name it .pt")
    if args.size not in weights.SIZES:
        raise UsageError(f"no size {args.size!r}; there are: {', '.join(weights.SIZES)}")
    if not _is_made(out, args):
        weights.random(out, size=args.size, seed=args.seed)
    if not args.quiet:
        print(
            f"ttvr-weights: {out} holds random weights: good for trying commands out, every "
            "ranking from it is meaningless",
            file=sys.stderr,
        )
    print(out)
    return 0


def _is_made(out: Path, args: argparse.Namespace) -> bool:
    """Whether the output is there already, as it would be made.

    Raises:
        UsageError: something else is there.
    """
    from ttvr.clip import weights
    from ttvr.errors import UsageError

    new_file(out, overwrite=True)
    if args.overwrite or not out.exists():
        return False
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        again = weights.random(Path(folder, out.name), size=args.size, seed=args.seed)
        if filecmp.cmp(again, out, shallow=False):
            return True
    raise UsageError(f"{out} exists and holds something else; name another, or pass --overwrite")
