"""`ttvr-eval`: how well features rank captions and videos whose pairs are known."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttvr.commands import _options, _recipes, _results
from ttvr.commands._eval_normalize import (
    add_normalize,
    check_normalize,
    has_bank_to_encode,
    labels,
    normalization,
)
from ttvr.commands._protocol import in_words, versions
from ttvr.commands._run import DONE, PARTIAL, execute, parser
from ttvr.commands._table import table
from ttvr.commands._target import new_file
from ttvr.commands._threads import spare_threads
from ttvr.commands._toy import warn_of_toy
from ttvr.errors import UsageError
from ttvr.recipes import named
from ttvr.wording import counted

if TYPE_CHECKING:
    from ttvr.evaluate import Encode, Pairs, Result
    from ttvr.records import TextFeatures
    from ttvr.retriever import Retriever
    from ttvr.store import Features

_ARGUMENTS = (
    *("features", "gt", "data", "split", "root", "text_features", "weights", "head", "activation"),
    *("missing", "on_long", "ties", "compat", "normalize", "bank", "bank_videos", "beta", "temp"),
)
"""What of the command line goes into a line of `--results`."""

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate; the exit code is returned."""
    return execute(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    made = parser(
        "eval",
        summary="Features and ground truth -> R@1, R@5, R@10, MdR, MnR, RSum of both directions,\n"
        "SumR of the two, and a line that says what was measured. Where clips have twins, which\n"
        "differ from them in the order of frames alone, also how many captions prefer their own.",
        examples=[
            "ttvr-eval feats/ --gt pairs.tsv",
            "ttvr-eval feats/ --gt pairs.tsv --missing skip --json > result.json",
            "ttvr-eval feats/ --text-features tfeats/ --save sims.npy",
            "ttvr-eval feats/ --gt pairs.tsv -w runs/x/best.pt --memory 4G",
            "ttvr-eval feats/ --data synthetic --split test",
            "ttvr-eval feats/ --gt pairs.tsv --results results.jsonl",
            "ttvr-eval feats/ --data msrvtt --root msrvtt/ --published tc_mgc-msrvtt9k-b32",
            "ttvr-eval feats/ --gt pairs.tsv --normalize qbnorm --bank train.txt",
        ],
    )
    made.add_argument("features", metavar="FEATS", help="folder of video features")
    _add_truth(made.add_argument_group("ground truth"))
    measure = made.add_argument_group("measures")
    measure.add_argument(
        "--ties",
        choices=("average", "optimistic", "pessimistic", "shared"),
        help="equal scores count half in a rank, not, or in full; shared: half, and recalls are "
        "means over all orders of equal scores (default: average, with twins shared)",
    )
    measure.add_argument(
        "--compat",
        choices=("clip4clip",),
        help="the published code's numbers where scores tie or are not finite",
    )
    add_normalize(made.add_argument_group("correction of scores"))
    model = made.add_argument_group("model (by default the one that made the features)")
    _options.add(model, "weights", "head", "device", "batch-size", "memory")
    model.add_argument(
        "--on-long",
        choices=("truncate", "error"),
        default="truncate",
        help="captions of more tokens than the model or its head takes",
    )
    _add_output(made.add_argument_group("output"))
    made.set_defaults(weights=None)
    return made


def _add_truth(group: argparse._ArgumentGroup) -> None:
    source = group.add_mutually_exclusive_group()
    source.add_argument(
        "--gt", metavar="FILE", help="lines of `caption<TAB>video id`, UTF-8; - is stdin"
    )
    _options.add_data(source, "a dataset whose captions are asked")
    group.add_argument("--split", metavar="NAME", help="of --data; by default test")
    group.add_argument("--root", metavar="DIR", help="folder --data lies in, if it has files")
    group.add_argument(
        "--text-features",
        metavar="TFEATS",
        help="captions encoded by `ttvr-extract --text`; their gt.tsv tells the pairs if neither "
        "--gt nor --data does",
    )
    group.add_argument(
        "--missing",
        choices=("error", "skip", "miss"),
        default="error",
        help="captions whose video has no features: refuse, leave out (exit 3), or count as not "
        "found in either direction",
    )


def _add_output(group: argparse._ArgumentGroup) -> None:
    _options.add(group, "json", "overwrite")
    group.add_argument(
        "--published",
        type=_recipes.recipe_name,
        metavar="RECIPE",
        help="show the published numbers of a recipe below (ttvr-train --list-recipes); --data and "
        "--split have to be those that they are of",
    )
    group.add_argument(
        "--save",
        metavar="FILE",
        help="write the scores, .npy [captions, videos]: cosines, or logits (at the model's logit "
        "scale) of a head that scores pairs",
    )
    group.add_argument(
        "--results", metavar="FILE", help="add the result to this file, a line of JSON per result"
    )


def _run(args: argparse.Namespace) -> int:
    _check_truth(args)
    check_normalize(args)
    results = _results.check(args.results) if args.results else None
    save = new_file(args.save, overwrite=args.overwrite) if args.save else None
    from ttvr import evaluate
    from ttvr.retriever import load_for
    from ttvr.store import Features

    features = Features.open(args.features)
    warn_of_toy(features.meta["model"].get("note", ""), features.ids)
    texts = Features.open(args.text_features) if args.text_features else None
    pairs = _pairs(args, texts)
    normalize = normalization(args)
    retriever = encode = None
    needs_model = evaluate.needs_model(features, texts) or has_bank_to_encode(args)
    if args.weights or args.head or needs_model:
        retriever = load_for(
            features.meta["model"],
            weights=args.weights,
            head=args.head,
            activation=args.activation,
            device=args.device,
        )
        spare_threads(retriever)
        encode = _encoder(args, retriever)

    result = evaluate.evaluate(
        features,
        pairs,
        retriever=retriever,
        encode=encode,
        texts=texts,
        missing=args.missing,
        ties=args.ties,
        compat=args.compat,
        normalize=normalize,
        memory=args.memory,
    )
    result.protocol["versions"] = versions()
    _tell_absent(args, features, pairs, result.absent)
    if save:
        evaluate.save_scores(result.sims, save)
    if results:
        given = {name: getattr(args, name) for name in _ARGUMENTS}
        _results.append(results, "ttvr-eval", {**_facts(result), "arguments": given})
    sys.stdout.write((_as_json if args.json else _as_text)(result, args.published))
    return PARTIAL if result.absent and args.missing == "skip" else DONE


def _tell_absent(
    args: argparse.Namespace, features: Features, pairs: Pairs, absent: Mapping[str, str]
) -> None:
    """Say in a line which videos have no features, and with -v each in one of its own."""
    from ttvr import evaluate

    if absent:
        done = "left out" if args.missing == "skip" else "counted as not found"
        hint = "" if args.verbose else "; -v lists them, a line each"
        log.warning("%s; %s%s", evaluate.absence(features, pairs, absent), done, hint)
    for video, reason in absent.items():
        log.debug("%s: %s", video, reason)


def _encoder(args: argparse.Namespace, retriever: Retriever) -> Encode:
    from ttvr.clip import tokenizer
    from ttvr.search import encode_texts, report_unknown

    length, words = retriever.text_length, retriever.head.needs_words

    def encode(captions: list[str]) -> tuple[TextFeatures, int]:
        cut = tokenizer.count_long(captions, most=length, on_long=args.on_long, what="captions")
        report_unknown(retriever, captions, what="captions")
        size = args.batch_size
        made = encode_texts(retriever, captions, batch_size=size, words=words, length=length)
        return made, cut

    return encode


def _check_truth(args: argparse.Namespace) -> None:
    if args.gt is None and args.data is None and args.text_features is None:
        raise UsageError(
            "no ground truth: pass --gt pairs.tsv, --data NAME, or --text-features with a gt.tsv"
        )
    for flag in ("split", "root"):
        if args.data is None and getattr(args, flag) is not None:
            raise UsageError(f"--{flag} is of a dataset: pass --data NAME as well")
    if args.published is not None:
        _check_published(args)


def _check_published(args: argparse.Namespace) -> None:
    from ttvr import datasets

    entry = named(args.published)
    asked = f"--data {entry.data} --split {entry.split}"
    if not _recipes.rows(args.published):
        raise UsageError(
            f"no published numbers of {args.published} are known here: leave --published out "
            "(ttvr-train --list-recipes shows which have some)"
        )
    if args.data is None:
        raise UsageError(f"--published {args.published} is of a dataset: pass {asked}")
    data, split = datasets.load(args.data).name, args.split or "test"
    if (data, split) != (entry.data, entry.split):
        raise UsageError(
            f"the published numbers of {args.published} are of {entry.data}, {entry.split}, not of "
            f"{data}, {split}: pass {asked}, or leave --published out"
        )


def _pairs(args: argparse.Namespace, texts: Features | None) -> Pairs:
    from ttvr import evaluate

    if args.data is not None:
        root = None if args.root is None else Path(args.root)
        return evaluate.dataset_pairs(args.data, args.split or "test", root=root)
    return evaluate.stored_pairs(texts) if args.gt is None else evaluate.read_pairs(args.gt)


def _facts(result: Result) -> dict[str, Any]:
    return {**result.metrics, "protocol": result.protocol}


def _as_json(result: Result, published: str | None) -> str:
    beside = {"published": _recipes.facts(published)} if published else {}
    return json.dumps({**_facts(result), **beside}, ensure_ascii=False) + "\n"


def _as_text(result: Result, published: str | None) -> str:
    line = in_words(result.protocol, result.metrics)
    beside = _recipes.rows(published) if published else []
    text = table(result.metrics, line, labels(result.protocol["normalize"]), beside)
    if published:
        text += _recipes.comment(published, coverage=result.protocol["coverage"])
    return text + _twins(result.metrics["twins"]) if "twins" in result.metrics else text


def _twins(found: dict[str, Any]) -> str:
    """How many captions prefer their video to its twin, in a line."""
    if not found["queries"]:
        return "# twins: no caption has both its video and the twin in the folder\n"
    prefer = "prefers its" if found["queries"] == 1 else "prefer their"
    parts = [
        f"twins {found['accuracy']:.1f} % of {counted(found['queries'], 'caption')} {prefer} video "
        f"(ties {100 * found['tie_fraction']:.1f} %, of cosines within {found['tolerance']:g}, "
        "count half)",
        *(f"{kind} {facts['accuracy']:.1f}" for kind, facts in found["kinds"].items()),
    ]
    return f"# {' | '.join(parts)}\n"
