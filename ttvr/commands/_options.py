"""Options that mean the same in every command, declared once; a command picks its own."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable

from ttvr import plugins, reducers
from ttvr.clip import ACTIVATIONS
from ttvr.errors import UsageError
from ttvr.wording import meant

MOST_JOBS = 8

LARGEST_SEED = (1 << 63) - 1
_UNITS = ("K", "M", "G", "T")
_LEAST_SIZE = 1 << 20


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def seed(text: str) -> int:
    """A whole number that every generator takes: 0 to 2**63 - 1."""
    # Python converts no text of thousands of digits.
    is_short = text.isdecimal() and len(text) <= len(str(LARGEST_SEED))
    if not is_short or int(text) > LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 to {LARGEST_SEED}")
    return int(text)


def seconds(text: str) -> float:
    """A positive number of seconds."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return value


def size(text: str) -> int:
    """Bytes, 1 MiB or more: a number with K, M, G or T (powers of 1024), as in 512M or 1.5G."""
    number, unit = (text[:-1], text[-1].upper()) if text[-1:].isalpha() else (text, "")
    try:
        count = float(number) * 1024 ** ("", *_UNITS).index(unit)
    except ValueError:
        count = 0.0
    if not _LEAST_SIZE <= count < float("inf"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no amount of memory of 1M or more, such as 512M or 2G"
        )
    return int(count)


def _reducer(text: str) -> str:
    """A token reducer, or `none`; checked as far as the model is not needed."""
    try:
        reducers.parse([text])
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _dataset(text: str) -> str:
    """A dataset by name; of a variant, `NAME:VARIANT`, only the name is looked at."""
    stem = text.partition(":")[0]
    if stem not in (known := plugins.names("datasets")):
        choices = ", ".join(known) + meant(stem, known)
        raise argparse.ArgumentTypeError(f"invalid choice: {text!r} (choose from {choices})")
    return text


def default_jobs() -> int:
    """Of `--jobs`: the processors this process may use, at most 8."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(usable or 1, MOST_JOBS)


def _out(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-o", "--out", metavar="PATH", help="where to write")


def _weights(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-w",
        "--weights",
        metavar="PATH|NAME",
        default="default",
        help="a checkpoint, or a name that `ttvr-weights list` shows",
    )
    group.add_argument(
        "--activation",
        choices=ACTIVATIONS,
        help="of the checkpoint's MLPs, where it is not known from the file",
    )


def _head(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--head",
        choices=plugins.names("heads"),
        help="similarity head; by default the one the weights were trained with, else meanp",
    )


def _reduce(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--reduce",
        type=_reducer,
        action="append",
        metavar="NAME@BLOCK:S,K",
        help=f"token reducer ({', '.join(plugins.names('reducers'))}) after BLOCK blocks: S "
        "segments of K tokens each; then option=value,...; repeatable; none: no reduction "
        "(default: what the weights were trained with)",
    )


def _device(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--device", default="auto", metavar="auto|cpu|cuda[:i]|mps", help="where the model runs"
    )


def _precision(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--precision",
        choices=("fp32", "bf16", "fp16"),
        default="fp32",
        help="autocast of the model",
    )


def _batch_size(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-b", "--batch-size", type=positive, default=16, metavar="N", help="items per forward pass"
    )


def _jobs(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-j",
        "--jobs",
        type=positive,
        metavar="N",
        help=f"videos worked on at once (default: one per processor, at most {MOST_JOBS})",
    )


def _json(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--json", action="store_true", help="JSON on stdout instead of text")


def _progress(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--progress",
        choices=("auto", "always", "never", "json"),
        default="auto",
        help="progress on stderr; auto: a moving line on a terminal, else one line every 30 s",
    )


def _seed(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--seed", type=seed, default=0, metavar="N", help="of everything random")


def _overwrite(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--overwrite",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="make it anew where the output exists",
    )


def _memory(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--memory",
        type=size,
        default="1G",
        metavar="SIZE",
        help="to score in, apart from the model and the texts: 512M, 2G, ...; more is no faster "
        "on a CPU",
    )


def _top(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-k", "--top", type=positive, default=10, metavar="N", help="hits per query")


_SHARED: dict[str, Callable[[argparse._ArgumentGroup], None]] = {
    "out": _out,
    "weights": _weights,
    "head": _head,
    "reduce": _reduce,
    "device": _device,
    "precision": _precision,
    "batch-size": _batch_size,
    "jobs": _jobs,
    "json": _json,
    "progress": _progress,
    "seed": _seed,
    "overwrite": _overwrite,
    "top": _top,
    "memory": _memory,
}


def add_data(group: argparse._ActionsContainer, what: str, *, required: bool = False) -> None:
    """Add `--data NAME`, for which no dataset is imported.

    Args:
        group: gets it.
        what: it is for.
        required: whether there is no doing without.
    """
    names = ", ".join(plugins.names("datasets"))
    group.add_argument(
        "--data",
        type=_dataset,
        metavar="NAME",
        help=f"{what}: {names}; NAME:VARIANT where there are several ways to split one",
        **({"required": True} if required else {}),
    )


def add(group: argparse._ArgumentGroup, *names: str, **helps: str) -> None:
    """Add the shared options of these names to a parser or group.

    Args:
        group: gets them.
        names: of `_SHARED`.
        helps: by destination, the help of those that a command can be more definite about.
    """
    for name in names:
        _SHARED[name](group)
    for action in group._actions:
        action.help = helps.get(action.dest, action.help)
