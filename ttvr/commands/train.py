"""`ttvr-train`: a recipe and a dataset -> a trained model, its log, and all to resume it."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttvr.commands import (
    _options,
    _processes,
    _recipes,
    _results,
    _train_recipe,
    _train_seeds,
    _train_select,
)
from ttvr.commands import _train_features as of_features
from ttvr.commands._progress import Progress
from ttvr.commands._protocol import of_training
from ttvr.commands._run import DONE, PARTIAL, execute, parser
from ttvr.commands._toy import warn_of_toy
from ttvr.commands._train_data import of_dataset
from ttvr.errors import TtvrError, UsageError
from ttvr.recipes import Recipe, named, settings_of

if TYPE_CHECKING:
    from ttvr.train import AnyData, Options, Outcome

_SUMMARY = """\
A recipe and a dataset -> a folder with the model that ranks the validation split best (best.pt),
its measures (results.jsonl), the log (log.jsonl), the settings (recipe.json), and all that is
needed to go on (last.pt).
With --features: CLIP stays as it is, and a head alone learns from folders of features.

Running the same command again goes on where it was stopped, by Ctrl-C or kill -9 alike, and
gives the result of an undisturbed run. stdout: the measures of best.pt on the validation split."""
_EXAMPLES = (
    "ttvr-train --data synthetic --recipe ttvr-tiny -o runs/tiny",
    "ttvr-train --data synthetic --recipe ttvr-tiny --set lr=6e-4 --limit 9600 -o runs/short",
    "ttvr-train --data synthetic --recipe ttvr-tiny --limit 9600 --seeds 3 -o runs/three",
    "ttvr-train --data synthetic --recipe ttvr-tiny --dry-run",
    "ttvr-train --list-recipes",
    "ttvr-train --features feats/ --text-features tfeats/ --val-features val/ "
    "--val-text-features tval/ --head seq_transf -o runs/head",
)
log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Train; the exit code is returned."""
    argv = sys.argv[1:] if argv is None else argv
    return execute(_parser(), lambda args: _run(args, argv), argv)


def _parser() -> argparse.ArgumentParser:
    made = parser("train", summary=_SUMMARY, examples=_EXAMPLES, resumes=True)
    data = made.add_argument_group("data")
    source = data.add_mutually_exclusive_group()
    _options.add_data(source, "dataset to learn from (default: the recipe's)")
    source.add_argument(
        "--features", metavar="FEATS", help="features of videos to learn from: the head alone does"
    )
    data.add_argument("--root", metavar="DIR", help="folder the dataset lies in, if it has files")
    data.add_argument(
        "--limit", type=_options.positive, metavar="N", help="learn from the first N clips alone"
    )
    data.add_argument(
        "--eval-limit", type=_options.positive, metavar="N", help="validate on the first N clips"
    )
    data.add_argument(
        "--val-split",
        metavar="NAME",
        help="split to validate on, which best.pt is chosen by (default: val, where there is one)",
    )
    data.add_argument(
        "--cache", metavar="DIR", help="keep all decoded frames there, for the next epochs and runs"
    )
    of_features.add(made.add_argument_group("features (with --features)"))
    _train_recipe.add(made.add_argument_group("recipe (flags change what --recipe says)"))
    _add_run(made.add_argument_group("run"))
    output = made.add_argument_group("output")
    _options.add(output, "out", "overwrite", "json", "progress")
    output.add_argument(
        "--show-config", action="store_true", help="print the resulting recipe as JSON, do nothing"
    )
    output.add_argument(
        "--list-recipes",
        action="store_true",
        help="print the names of all recipes, their sources and published numbers, do nothing",
    )
    output.add_argument(
        "--dry-run",
        action="store_true",
        help="take one step, print what it was as JSON, write nothing",
    )
    made.set_defaults(weights=None, batch_size=None, precision=None, seed=None)
    return made


def _add_run(group: argparse._ArgumentGroup) -> None:
    _options.add(
        group,
        *("device", "jobs"),
        jobs="clips read at once (default: one per processor, at most "
        f"{_options.MOST_JOBS}; one where they are drawn)",
    )
    _processes.add(group)
    _train_seeds.add(group)
    group.add_argument(
        "--threads", type=_options.positive, metavar="N", help="of torch on a CPU, per process"
    )
    group.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="let torch.compile run the visual tower's blocks: some minutes until the first step, "
        "faster steps then, and other rounding",
    )
    for name, default, what in (
        ("eval-every", 0, "steps between validations; 0: after each epoch alone"),
        ("save-every", 200, "steps between checkpoints, at most"),
        ("log-every", 10, "steps between lines of the log"),
    ):
        kind = _options.seed if name == "eval-every" else _options.positive
        group.add_argument(f"--{name}", type=kind, default=default, metavar="N", help=what)
    _train_select.add(group)
    group.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on with what the output holds",
    )


def _run(args: argparse.Namespace, argv: Sequence[str]) -> int:
    if args.list_recipes:
        sys.stdout.write(_recipes.listing(as_json=args.json))
        return DONE
    _train_select.settle(args)
    if args.data is None and args.features is None:
        if args.recipe is None:
            raise UsageError("nothing to learn from: pass --data NAME, --features or --recipe NAME")
        args.data = named(args.recipe).data
    of_features.check(args)
    recipe = _train_recipe.asked(args)
    if args.show_config:
        print(json.dumps(settings_of(recipe), indent=1))
        return DONE
    if args.out is None and not args.dry_run:
        raise UsageError("no output: pass -o runs/NAME")
    _train_seeds.check(args, recipe)
    from ttvr import distributed, train

    if distributed.is_member():
        return _processes.join(args, lambda: _work(args, recipe))
    if args.recipe:
        log.info("%s: %s; %s", args.recipe, named(args.recipe).source, named(args.recipe).note)
    if not args.dry_run:
        for folder, _ in _train_seeds.runs(args, recipe):
            train.check_usable(folder, resume=args.resume, overwrite=args.overwrite)
    if (args.gpus or 1) > 1:
        train.check_rows(recipe, processes=args.gpus)
        return _processes.launch(main, argv, args)
    return _work(args, recipe)


def _work(args: argparse.Namespace, recipe: Recipe) -> int:
    """Train, in this process and the others of its group; the first one prints."""
    import torch

    from ttvr import distributed, train

    if args.threads:
        torch.set_num_threads(args.threads)
    data, jobs = of_features.load(args) if args.features else of_dataset(args)
    options = train.Options(
        eval_every=args.eval_every,
        save_every=args.save_every,
        log_every=args.log_every,
        jobs=jobs,
        activation=args.activation,
        select=args.select,
        chosen_on=args.chosen_on,
        compile=bool(args.compile),
    )
    if args.dry_run:
        found = train.rehearse(recipe, data, options=options, device=args.device)
        if distributed.leads():
            print(json.dumps(found))
        return DONE
    _train_seeds.require_measures(args, has_validation=data.val is not None)
    if distributed.leads():
        _train_select.warn(args)
        _warn_of_start(recipe, data)
    found = [
        _trained(args, own, data, options, folder)
        for folder, own in _train_seeds.runs(args, recipe)
    ]
    if not distributed.leads():
        return DONE
    _train_seeds.tell(args, found, recipe)
    return PARTIAL if args.features and of_features.tell_absent(data) else DONE


def _warn_of_start(recipe: Recipe, data: AnyData) -> None:
    """Say where training starts from the toy, and videos are real."""
    from ttvr.clip import catalog
    from ttvr.retriever import SCRATCH

    if recipe.weights.startswith(f"{SCRATCH}:"):
        return
    # Whoever loads weights says that they are gone: a training that is over needs them no more.
    with contextlib.suppress(TtvrError):
        note = catalog.label(catalog.locate(recipe.weights))
        warn_of_toy(note, (clip.id for clip in data.train.clips))


def _trained(
    args: argparse.Namespace, recipe: Recipe, data: AnyData, options: Options, folder: Path
) -> dict[str, Any]:
    """Train; what came of it, which the folder keeps; empty in all processes but the first."""
    from ttvr import distributed

    outcome = _train(args, recipe, data, options, folder)
    made = distributed.by_first(lambda: _kept(args, recipe, data, options, folder, outcome))
    return made or {}


def _kept(
    args: argparse.Namespace,
    recipe: Recipe,
    data: AnyData,
    options: Options,
    folder: Path,
    outcome: Outcome,
) -> dict[str, Any]:
    """Keep what came of a training, and say where its model is; by the first process alone."""
    from ttvr import train

    protocol = of_training(outcome, data, recipe, options, folder / train.BEST)
    facts = {**(outcome.metrics or {}), "protocol": protocol}
    stored = {**facts, "recipe": settings_of(recipe)}
    _results.append_new(folder / train.RESULTS, "ttvr-train", stored)
    best = folder / train.BEST
    kept = f"the {args.select} model"
    log.info("%s is %s; use it: ttvr-extract videos/ -w %s -o feats/", best, kept, best)
    return {**facts, **_recipes.beside(args, data, recipe, facts)}


def _train(
    args: argparse.Namespace, recipe: Recipe, data: AnyData, options: Options, folder: Path
) -> Outcome:
    from ttvr import distributed, train

    with contextlib.ExitStack() as stack:
        shown: list[Progress] = []

        def on_step(step: int, steps: int) -> None:
            if shown:
                shown[0].step()
                return
            if distributed.leads():
                _train_seeds.forget(args)
            progress = Progress("steps", total=steps, mode=args.progress, quiet=args.quiet)
            shown.append(stack.enter_context(progress))
            if step:
                progress.step(skipped=step)

        return train.train(
            recipe,
            data,
            folder,
            options=options,
            device=args.device,
            resume=args.resume,
            overwrite=args.overwrite,
            on_step=on_step,
        )
