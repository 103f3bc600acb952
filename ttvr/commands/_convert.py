"""`ttvr-weights convert`: a checkpoint as another file, or a published system's as a run."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttvr.commands import _options
from ttvr.commands._target import new_file
from ttvr.commands._verbs import Verbs
from ttvr.errors import UsageError
from ttvr.recipes import parse, settings_of
from ttvr.systems import SYSTEMS
from ttvr.wording import counted

if TYPE_CHECKING:
    from ttvr.retriever import Official

_SUMMARY = (
    "write a CLIP as a state dict, .safetensors or .npz, or with --system a published system's "
    "checkpoint as a run, which every -w takes"
)
_EXAMPLES = """\
convert ViT-B/32 -o clip.safetensors --dtype float16
convert --system clip4clip pytorch_model.bin.4 -o clip4clip.pt
convert --system centerclip ckpt.pth.tar --reduce kmedoids@6:4,49,segment_mask=last -o run.pt
convert --system xpool model_best.pth --set frames=12 -o xpool.pt"""
_RUN_SUFFIX = ".pt"
_OF_A_SYSTEM = {"heads": "--heads", "reduce": "--reduce", "set": "--set"}
_OF_A_CLIP = {"dtype": "--dtype", "note": "--note"}
_SHOWN = 5


def add_convert(verbs: Verbs) -> None:
    """Add the verb."""
    one = verbs.add(convert, _SUMMARY, _EXAMPLES, "overwrite", "json")
    one.add_argument("weights", metavar="IN", help="a checkpoint or a name")
    one.add_argument(
        "-o",
        "--out",
        required=True,
        metavar="OUT",
        help=".pt, .bin, .safetensors or .npz; a run is a .pt",
    )
    clip = one.add_argument_group("a CLIP")
    clip.add_argument(
        "--dtype", choices=("float32", "float16"), help="by default float32, for .npz float16"
    )
    clip.add_argument(
        "--note", metavar="TEXT", help="what OUT says of itself; by default what IN says"
    )
    system = one.add_argument_group("a published system, encoders and head as its authors saved it")
    system.add_argument("--system", choices=sorted(SYSTEMS), help="whose checkpoint IN is")
    system.add_argument(
        "--heads",
        type=_options.positive,
        metavar="N",
        help="of the head's attention, which the file does not tell (default: as published)",
    )
    system.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the recipe that the file does not tell, as frames=64, words=64 or "
        "head_options=NAME=VALUE; repeatable",
    )
    _options.add(
        system,
        "reduce",
        reduce="token reducer that it was trained with, as of `ttvr-extract`; repeatable, none: "
        "no reduction (default: the system's own; centerclip has to be told)",
    )


def convert(args: argparse.Namespace) -> int:
    """Do it; the exit code is returned."""
    others = _OF_A_CLIP if args.system else _OF_A_SYSTEM
    if wrong := [flag for name, flag in others.items() if getattr(args, name)]:
        what = "has no meaning with" if args.system else "needs"
        raise UsageError(f"{wrong[0]} {what} --system")
    facts = _run(args) if args.system else _clip(args)
    print(json.dumps(facts, indent=2) if args.json else args.out)
    return 0


def _clip(args: argparse.Namespace) -> dict[str, Any]:
    """Write a CLIP, and say what it is."""
    from ttvr.clip import weights

    out = Path(args.out)
    if out.suffix not in weights.SUFFIXES:
        raise UsageError(f"{out}: the suffix must be one of {', '.join(weights.SUFFIXES)}")
    new_file(out, overwrite=args.overwrite)
    checkpoint = weights.read(args.weights)
    weights.save(
        checkpoint.clip,
        out,
        dtype=args.dtype,
        activation=checkpoint.activation,
        note=checkpoint.note if args.note is None else args.note,
    )
    if checkpoint.head and not args.quiet:
        _say("only the CLIP was written, not the head of the run")
    return {
        "path": str(out),
        "arch": weights.arch(checkpoint.clip),
        "activation": checkpoint.activation,
        "fingerprint": weights.fingerprint(checkpoint.clip),
    }


def _run(args: argparse.Namespace) -> dict[str, Any]:
    """Write a run, and say what it is."""
    out = Path(args.out)
    if out.suffix != _RUN_SUFFIX:
        raise UsageError(f"{out}: the suffix of a run must be {_RUN_SUFFIX}")
    new_file(out, overwrite=args.overwrite)
    settings = _settings(args.set)
    from ttvr import retriever

    found = retriever.from_official(
        args.system,
        args.weights,
        heads=args.heads,
        settings=settings,
        reduce=args.reduce or (),
    )
    found.model.save(out)
    facts = _facts(args.system, out, found)
    if not args.quiet:
        _tell(facts)
    return facts


def _settings(assignments: list[str]) -> dict[str, Any]:
    """What --set says.

    Raises:
        UsageError: no setting, or one given twice.
    """
    pairs = [parse(text) for text in assignments]
    names = [name for name, _ in pairs]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"{twice[0]} is given twice; say it once")
    return dict(pairs)


def _facts(system: str, out: Path, found: Official) -> dict[str, Any]:
    model = found.model
    recipe = settings_of(model.recipe)
    identity = model.identity()
    kept = ("head", "head_options", "reduce", "frames", "words", "sampler", "fps", "weights")
    return {
        "path": str(out),
        "system": system,
        "arch": identity["arch"],
        **{name: recipe[name] for name in kept},
        "clip_parameters": sum(p.numel() for p in model.clip.parameters()),
        "head_parameters": sum(p.numel() for p in model.head.parameters()),
        "fingerprint": identity["fingerprint"],
        "base": identity["base"],
        "space": identity["space"],
        "unused": list(found.unused),
    }


def _tell(facts: dict[str, Any]) -> None:
    """One line on what was made of the file, and one on what was left out."""
    options = "".join(f", {name}={value}" for name, value in facts["head_options"])
    rate = f" of {facts['fps']:g} per second" if facts["fps"] else ""
    _say(
        f"{SYSTEMS[facts['system']].title}: {facts['arch']}, head {facts['head']}{options}, reduce "
        f"{' '.join(facts['reduce']) or 'none'}, {counted(facts['frames'], 'frame')}{rate} "
        f"({facts['sampler']}), {facts['words']} words"
    )
    if unused := facts["unused"]:
        more = ", ..." if len(unused) > _SHOWN else ""
        _say(
            f"left out, as no score depends on them: {counted(len(unused), 'tensor')} "
            f"({', '.join(unused[:_SHOWN])}{more})"
        )


def _say(text: str) -> None:
    print(f"ttvr-weights: {text}", file=sys.stderr)
