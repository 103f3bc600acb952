"""`ttvr-demo`: the whole story on drawn clips, offline: draw, extract, rank, evaluate, show."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ttvr.commands import _demo_reduced as reduced
from ttvr.commands import _demo_shell as shell
from ttvr.commands import _options
from ttvr.commands._run import DONE, PARTIAL, execute, parser
from ttvr.commands._target import new_folder
from ttvr.errors import RequirementError, UsageError
from ttvr.files import written

if TYPE_CHECKING:
    from ttvr.records import Split

CLIPS, SENTENCES, TOP = 64, 5, 3
STEADY = {"still": 2, "relation": 1, "bounce": 2, "blink": 1}
"""Events that are the same backwards, and how many sentences may tell of one: the model averages
over frames, so it knows no order."""
PLANS = ("kmedoids@2:4,16", "kmedoids@2:4,8")
"""Token clusterings to plug into the shipped model: 4 segments, of 3 frames of 16 patches each."""
_BROKEN = {"mp4": 600, "images": 300}  # bytes that are left: of the tables, of a picture
_MADE = ("videos", "feats", "feats-16", "feats-8", "queries.txt", "hits.png", "centers.png")
_PUBLIC = "ViT-B/32"


def main(argv: Sequence[str] | None = None) -> int:
    """Show it all; the exit code is returned."""
    return execute(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    made = parser(
        "demo",
        summary="Nothing -> drawn clips, features, rankings, numbers and a contact sheet, by the\n"
        "very commands that you would type, each shown before its output. Offline, without a GPU;\n"
        "without ffmpeg the clips are folders of images. The session goes to stdout.",
        examples=["ttvr-demo", "ttvr-demo -o /tmp/demo --clips 200"],
        resumes=True,
    )
    made.add_argument(
        "--clips", type=_options.positive, default=CLIPS, metavar="N", help="clips to draw"
    )
    _options.add(made, "out", "overwrite")
    made.set_defaults(out="demo")
    return made


def _run(args: argparse.Namespace) -> int:
    from ttvr import plugins
    from ttvr.clip import catalog

    sys.stdout.reconfigure(encoding="utf-8")  # as ttvr-rank does, which is a part of it
    catalog.locate(catalog.DEFAULT)  # before anything is drawn
    split = plugins.load("datasets", "synthetic").load(None, "test", limit=args.clips)
    asked = _asked(split)
    out = _own_folder(args.out)
    form, why = _form(out / "videos" / split.clips[0].id)
    out.mkdir(parents=True, exist_ok=True)
    videos, feats, queries = (str(out / name) for name in ("videos", "feats", "queries.txt"))
    again = ["--overwrite"] if args.overwrite else []

    shell.say(f"{len(split.clips)} clips of drawn shapes that the model was never trained on.")
    if why:
        shell.say(f"As folders of images, {why}")
    _draw(split, Path(videos), form, again)
    shell.say("Features of every clip, by the model that comes with ttvr.")
    shell.run(["ttvr-extract", videos, "-o", feats, *again], expected=PARTIAL)
    shell.show("echo $?", f"{PARTIAL}\n")
    shell.say(
        f"Exit code {PARTIAL}: done, but not with everything. The broken file is named above with "
        "the reason;\nit has no features, not even zeros. All others do."
    )
    shell.say(
        "Sentences to look for. None asks what came first or which way something moved: this "
        "model\naverages over the frames of a clip and cannot know."
    )
    _write_queries(split, asked, Path(videos) / "captions.txt", Path(queries))
    shell.run(["ttvr-rank", queries, feats, "-k", str(TOP)])
    _tick(split, asked, feats)
    shell.say("The captions of all clips, looked for among all clips, and the other way round.")
    shell.run(["ttvr-eval", feats, "--gt", f"{videos}/gt.tsv"])
    shell.say("The hits as pictures.")
    shell.pipe(
        ["ttvr-rank", queries, feats, "-k", "5", "--json"],
        ["ttvr-show", "-", "-o", str(out / "hits.png"), "--overwrite"],
    )
    reduced.run(out, split, asked, PLANS, again)
    _go_on()
    return DONE


def _own_folder(name: str) -> Path:
    """The folder of the session: a new one, an empty one, or that of an earlier session.

    Raises:
        UsageError: a file, or a folder of somebody else.
    """
    out = new_folder(name)
    there = {path.name for path in out.iterdir()} if out.exists() else set()
    if there and not (there <= set(_MADE) and there & {"videos", "feats"}):
        raise UsageError(f"{out} is not empty and not the folder of a demo; pass another -o")
    return out


def _asked(split: Split) -> list[int]:
    """The clips that sentences are asked for: the first few of `STEADY` events.

    Raises:
        UsageError: there are none among so few.
    """
    from ttvr.datasets.synthetic import scene_of

    chosen: list[int] = []
    kinds: Counter[str] = Counter()
    for number, clip in enumerate(split.clips):
        kind = scene_of(clip.id).kind
        if kinds[kind] < STEADY.get(kind, 0) and len(chosen) < SENTENCES:
            chosen.append(number)
            kinds[kind] += 1
    if not chosen:
        raise UsageError(f"--clips {len(split.clips)}: too few to ask for; the default is {CLIPS}")
    return chosen


def _form(first: Path) -> tuple[str, str]:
    """How clips are drawn, and if not as videos why.

    Args:
        first: path of the first clip, as a folder of images.

    Raises:
        RequirementError: they are there as videos, and now there is no ffmpeg.
    """
    from ttvr import video

    if first.is_dir():
        return "images", "which an earlier run drew. For videos name another folder."
    try:
        video.find_ffmpeg()
    except RequirementError as error:
        if first.with_suffix(".mp4").exists():
            raise
        return "images", f"since videos take ffmpeg: {error}"
    return "mp4", ""


def _draw(split: Split, videos: Path, form: str, again: list[str]) -> None:
    """The clips as files, and one that is broken."""
    how = ["--limit", str(len(split.clips)), *(["--format", form] if form != "mp4" else []), *again]
    shell.run(["ttvr-data", "synth", "-o", str(videos), *how])
    first = split.clips[0].id
    whole, broken = videos / f"{first}.mp4", videos / "broken.mp4"
    shell.say("And one that is broken, as in every real collection.")
    if form == "images":
        whole, broken = videos / first / "00.png", videos / "broken" / "00.png"
        shell.show(f"mkdir -p {_quoted(broken.parent)}")
        broken.parent.mkdir(exist_ok=True)
    left = _BROKEN[form]
    shell.show(f"head -c {left} {_quoted(whole)} > {_quoted(broken)}")
    _write(broken, whole.read_bytes()[:left])


def _quoted(path: Path | str) -> str:
    return shlex.quote(str(path))


def _write_queries(split: Split, asked: list[int], captions: Path, queries: Path) -> None:
    """The sentences, as lines of the file of all captions."""
    lines = ";".join(f"{number + 1}p" for number in asked)
    shell.show(f"sed -n {_quoted(lines)} {_quoted(captions)} > {_quoted(queries)}")
    sentences = "".join(f"{split.captions[number]}\n" for number in asked)
    _write(queries, sentences.encode())
    shell.show(f"cat {_quoted(queries)}", sentences)


def _write(path: Path, content: bytes) -> None:
    """Write a file, unless it is there as it would be: a new one would be extracted anew."""
    if path.exists() and path.read_bytes() == content:
        return
    with written(path) as partial:
        partial.write_bytes(content)


def _tick(split: Split, asked: list[int], feats: str) -> None:
    """Where the right clip of each sentence is among its first hits."""
    from ttvr.search import rank

    found = rank([split.captions[number] for number in asked], feats, TOP, device="auto")
    yes, no = "\u2713", "\u2717"
    lines = [f"Where the clip is that each sentence describes; {no} is beyond the first {TOP}:"]
    for number, hits in zip(asked, found, strict=True):
        clip = split.clips[number].id
        places = [f"{yes} {hit.rank}" for hit in hits.hits if hit.id == clip]
        lines.append(f"{places[0] if places else f'{no}  '}  {clip}  {hits.text}")
    shell.say("\n".join(lines))


def _go_on() -> None:
    """What the numbers are worth, and the next step."""
    from ttvr.clip import catalog

    megabytes = catalog.find(_PUBLIC).megabytes
    shell.say(
        "These clips are drawn, and so were those that the model was trained on: it is a toy. "
        "The numbers\nabove are not comparable with those of MSR-VTT or any other real videos."
        f"\n\nYour own videos, with OpenAI's CLIP ({megabytes} MB, once):"
        f"\n  ttvr-weights fetch {_PUBLIC}"
        f"\n  ttvr-extract ~/Videos -o feats/ -w {_PUBLIC}"
        '\n  ttvr-rank --query "a dog catches a frisbee" feats/'
    )
