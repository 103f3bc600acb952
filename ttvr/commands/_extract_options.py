"""The flags of ttvr-extract."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from ttvr.commands import _options
from ttvr.commands._run import parser
from ttvr.errors import UsageError
from ttvr.recipes import Recipe

SOURCE = "source"  # of --fps: all frames, where the weights would have it otherwise
SPLIT = "test"
_TEXT_ONLY = ("gt", "words", "on_long")
_VIDEO_ONLY = (
    *("root", "frames", "sampler", "fps", "exact_resize", "no_frames", "patches", "precision"),
    *("jobs", "timeout", "retry_failed", "strict", "missing"),
)
_SUMMARY = """\
Videos, folders of videos, folders of images, GIF and WebP -> a folder of .npy features.
With --text: a file of captions -> a folder of text features.
With --data: a dataset's split in place of either, under the dataset's ids.

A folder is searched for videos; an id is the path below it without suffix. A video whose name
cannot be an id (a line break, not UTF-8) is left out and listed, and counts as failed.

The output mirrors the inputs. Running the same command again goes on where it was interrupted,
and after changes makes only what is new and drops what is no longer among the inputs (--dry-run
shows it); the result is the same, byte for byte, as if it had run once. An output that holds none
of the inputs, but others, is refused. stdout: the output folder."""
_EXAMPLES = (
    "ttvr-extract videos/ -o feats/",
    "find . -name '*.mp4' -print0 | ttvr-extract --files-from - -0 --root . -o feats/",
    "ttvr-extract --text captions.txt -w ViT-B/32 -o tfeats/",
    "ttvr-extract --data synthetic --split val -o val/",
    "ttvr-extract --text --data synthetic --split val -o tval/",
    "ttvr-extract --data msrvtt:9k --split test --root MSRVTT/ -o test/",
)


def extract_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    made = parser("extract", summary=_SUMMARY, examples=_EXAMPLES, resumes=True)
    _add_inputs(made.add_argument_group("inputs and output"))
    _add_data(made.add_argument_group("a dataset instead of files"))
    _add_model(made.add_argument_group("model"))
    _add_frames(made.add_argument_group("frames"))
    _add_stored(made.add_argument_group("what is stored"))
    _add_work(made.add_argument_group("work"))
    _add_texts(made.add_argument_group("texts"))
    return made


def check(args: argparse.Namespace) -> None:
    """Refuse flags that do not go together.

    Raises:
        UsageError: which, and what they go with.
    """
    is_text, has_paths = args.text is not None, bool(args.paths or args.files_from)
    if args.data is not None and (has_paths or args.text):
        raise UsageError("--data goes without PATHs, --files-from, and a FILE of --text")
    if args.text == "" and args.data is None:
        raise UsageError("--text FILE: only with --data it may stand alone")
    if not is_text and not has_paths and args.data is None:
        raise UsageError("nothing to extract: give a PATH, --files-from, --data, or --text")
    if is_text and (has_paths or args.dry_run):
        raise UsageError("--text goes without PATHs, --files-from and --dry-run")
    shared = ("root",) if args.data is not None else ()
    ignored = [name for name in _VIDEO_ONLY if name not in shared] if is_text else _TEXT_ONLY
    if flags := _given(args, ignored):
        raise UsageError(f"{', '.join(flags)}: only {'without' if is_text else 'with'} --text")
    if args.data is None and (flags := _given(args, ("split", "limit", "missing"))):
        raise UsageError(f"{', '.join(flags)}: of a dataset, pass --data NAME as well")
    if args.data is not None and args.gt:
        raise UsageError("--gt: a dataset tells itself what its captions describe")
    if args.out is None:
        raise UsageError("where to? pass -o FOLDER")
    if args.null and not args.files_from:
        raise UsageError("-0 goes with --files-from")


def _given(args: argparse.Namespace, names: Iterable[str]) -> list[str]:
    """The flags of these names whose values are not the defaults, as they are typed."""
    default = extract_parser().get_default
    return ["--" + name.replace("_", "-") for name in names if getattr(args, name) != default(name)]


def _rate(text: str) -> float | str:
    """A positive number of frames per second, or `source`."""
    if text == SOURCE:
        return SOURCE
    try:
        return _options.seconds(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a positive number of frames per second nor {SOURCE!r}"
        ) from None


def _add_inputs(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "paths", nargs="*", metavar="PATH", help="a video, an image folder, or a folder of videos"
    )
    _options.add(group, "out")
    group.add_argument(
        "--files-from", metavar="FILE|-", help="read more PATHs from it, one per line; - is stdin"
    )
    group.add_argument(
        "-0", "--null", action="store_true", help="PATHs of --files-from end with NUL, not newline"
    )
    group.add_argument(
        "--root",
        metavar="DIR",
        help="ids are paths below it, not below each PATH's own folder; with --data the folder it "
        "lies in, if it has files",
    )
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="list what would be made, kept and dropped, without the weights; write nothing",
    )


def _add_data(group: argparse._ArgumentGroup) -> None:
    _options.add_data(group, "a dataset's clips, or its captions")
    group.add_argument("--split", metavar="NAME", help=f"of --data; by default {SPLIT}")
    group.add_argument(
        "--limit", type=_options.positive, metavar="N", help="the first N clips of it alone"
    )
    group.add_argument(
        "--missing",
        choices=("error", "skip"),
        default="error",
        help="clips of it whose video is not below --root: refuse, or leave out (exit 3)",
    )


def _add_model(group: argparse._ArgumentGroup) -> None:
    _options.add(group, "weights", "head", "reduce", "device", "precision", "batch-size")


def _add_frames(group: argparse._ArgumentGroup) -> None:
    recipe = Recipe()
    group.add_argument(
        "--frames",
        type=_options.positive,
        metavar="N",
        help=f"per video, at most (default: the weights' own, else {recipe.frames})",
    )
    group.add_argument(
        "--sampler",
        choices=("segment", "linspace"),
        help="middles of equal parts, or CLIP4Clip's first to last "
        f"(default: the weights' own, else {recipe.sampler})",
    )
    group.add_argument(
        "--fps",
        type=_rate,
        metavar=f"F|{SOURCE}",
        help=f"choose among F frames per second, or with {SOURCE} among all frames "
        "(default: the weights' own, else all frames)",
    )
    group.add_argument(
        "--exact-resize",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="resize with Pillow from full frames, as CLIP was trained, not in ffmpeg; slower",
    )


def _add_stored(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--no-frames",
        action="store_true",
        help="leave out frames/: then no time of the best frame, and heads that need frames fail",
    )
    group.add_argument(
        "--patches",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="keep the patch tokens of every frame; large, the size is told before the run",
    )
    group.add_argument(
        "--dtype", choices=("float16", "float32"), default="float16", help="of the features"
    )
    group.add_argument(
        "--shard-rows", type=_options.positive, default=8192, metavar="N", help="rows per file"
    )


def _add_work(group: argparse._ArgumentGroup) -> None:
    _options.add(group, "jobs")
    group.add_argument(
        "--timeout",
        type=_options.seconds,
        default=60.0,
        metavar="S",
        help="seconds to decode one video, then it fails",
    )
    group.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on with what is in the output folder",
    )
    _options.add(group, "overwrite")
    group.add_argument(
        "--retry-failed",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="try again what failed before",
    )
    group.add_argument(
        "--strict",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="exit with 1 if an input failed or is partial",
    )
    _options.add(group, "json", "progress")


def _add_texts(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--text",
        nargs="?",
        const="",
        metavar="FILE|-",
        help="texts instead of videos, one per line; - is stdin; alone with --data: its captions",
    )
    group.add_argument(
        "--gt", metavar="FILE", help="what texts describe: lines of caption<TAB>video id"
    )
    group.add_argument(
        "--words",
        type=_options.positive,
        metavar="N",
        help="tokens of a text, start and end included (default: what the head is made for, else "
        "the model's context length)",
    )
    group.add_argument(
        "--on-long",
        choices=("truncate", "error"),
        default="truncate",
        help="what happens to longer texts; truncated ones are counted on stderr",
    )
