"""The options of ttvr-eval that correct scores before they are ranked, and what it says of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttvr.commands._texts import read_queries
from ttvr.errors import UsageError

if TYPE_CHECKING:
    from ttvr.evaluate import Normalization

_BANKED = ("qbnorm", "sinkhorn")
_OF_RULE = {
    "bank": _BANKED,
    "bank_videos": _BANKED,
    "beta": ("qbnorm",),
    "temp": ("dsl",),
}


def add_normalize(group: argparse._ArgumentGroup) -> None:
    """Declare the options."""
    group.add_argument(
        "--normalize",
        choices=("dsl", *_BANKED),
        help="correct scores for texts and videos that are near to everything: by a dual softmax "
        "over all queries (transductive), by QB-Norm or by Sinkhorn with a bank; each granularity "
        "of a head on its own; --save writes the scores as they were",
    )
    group.add_argument(
        "--bank",
        metavar="TFEATS|FILE",
        help="captions that are no queries, such as those of training, for t2v: a folder of "
        "`ttvr-extract --text`, or a file of one per line, which the model encodes",
    )
    group.add_argument(
        "--bank-videos",
        metavar="FEATS",
        help="features of videos that are no queries, for v2t, which else stays as it is",
    )
    group.add_argument(
        "--beta", type=_positive, metavar="X", help="of qbnorm, for cosines (default: 20)"
    )
    group.add_argument(
        "--temp",
        type=_positive,
        metavar="X",
        help="of dsl, for cosines times the logit scale (default: 1)",
    )


def check_normalize(args: argparse.Namespace) -> None:
    """Refuse what does not go together.

    Raises:
        UsageError: it says what does.
    """
    rule = args.normalize
    for name, rules in _OF_RULE.items():
        if getattr(args, name) is not None and rule not in rules:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} is of --normalize {' or '.join(rules)}")
    if rule is None:
        return
    if args.compat is not None:
        raise UsageError(
            "--compat gives published numbers of plain scores: leave --normalize or --compat out"
        )
    if args.bank == "-" == args.gt:
        raise UsageError("--gt and --bank cannot both be stdin")
    if rule in _BANKED and args.bank is None and args.bank_videos is None:
        raise UsageError(
            f"--normalize {rule} needs a bank: --bank of captions for t2v, --bank-videos for v2t"
        )


def has_bank_to_encode(args: argparse.Namespace) -> bool:
    """Whether the bank of captions is a file, which takes a model."""
    return args.bank is not None and not Path(args.bank).is_dir()


def normalization(args: argparse.Namespace) -> Normalization | None:
    """The rule that the options ask for, its banks opened.

    Raises:
        OSError: a file cannot be read.
        TtvrError: a folder or file that is not what it has to be.
    """
    if args.normalize is None:
        return None
    from ttvr.evaluate import Normalization
    from ttvr.store import Features

    numbers = {name: getattr(args, name) for name in ("beta", "temp")}
    made = Normalization(
        args.normalize, **{name: value for name, value in numbers.items() if value is not None}
    )
    if args.bank_videos is not None:
        made = made._replace(videos=Features.open(args.bank_videos))
    if args.bank is None:
        return made
    made = made._replace(name=Path(args.bank).name)
    if has_bank_to_encode(args):
        captions = tuple(query.text for query in read_queries(args.bank, what="captions"))
        return made._replace(captions=captions)
    texts = Features.open(args.bank)
    return made._replace(texts=texts, captions=tuple(texts.texts or ()))


def labels(facts: dict[str, Any] | None) -> dict[str, str]:
    """What the table adds to the names of rows: of those that are corrected, the rule."""
    if facts is None:
        return {}
    ways = {"t2v": "t2v", "v2t": "v2t", "v2t_sentence": "v2t"}
    corrected = {name: facts["rule"] for name, way in ways.items() if facts[way]}
    return corrected | {"SumR": facts["rule"]}


def protocol_of(facts: dict[str, Any]) -> str:
    """The rule, its numbers and its banks, in a few words."""
    numbers = [f"{name} {facts[name]:g}" for name in ("beta", "temp") if name in facts]
    whose = "of the model" if facts["scale_from"] == "model" else "assumed, no model at hand"
    parts = [
        " ".join(["normalize", facts["rule"], *numbers]),
        f"scale {facts['scale']:.4g} ({whose})",
        *(_bank(way, facts[way], what) for way, what in (("t2v", "captions"), ("v2t", "videos"))),
        *(["transductive"] if facts["transductive"] else []),
    ]
    return ", ".join(parts)


def _bank(way: str, bank: dict[str, Any] | None, what: str) -> str:
    if bank is None:
        return f"{way} not normalized"
    if bank["bank"] == "queries":
        return f"{way} over all {bank['count']} {what}"
    return f"{way} bank {bank['bank']} of {bank['count']} {what} ({bank['queries']} are queries)"


def _positive(text: str) -> float:
    """A positive number."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value
