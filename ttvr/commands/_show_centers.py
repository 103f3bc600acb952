"""`ttvr-show --centers`: its flags, and from them to a picture."""

from __future__ import annotations

import argparse
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ttvr import reducers
from ttvr.commands import _options
from ttvr.commands._progress import Progress
from ttvr.commands._threads import spare_threads
from ttvr.commands._toy import warn_of_toy
from ttvr.errors import TtvrError, UsageError, VideoError

if TYPE_CHECKING:
    from PIL.Image import Image

    from ttvr.show import Segmentation

ONLY_CENTERS = ("reduce", "map", "frames")


class Drawn(NamedTuple):
    """A picture, what `--json` says of it, and whether the video decoded in part only."""

    image: Image
    facts: dict[str, Any]
    is_partial: bool


def add_centers(group: argparse._ArgumentGroup) -> None:
    """The flags that go with --centers."""
    group.add_argument(
        "--centers", metavar="VIDEO", help="a video or a folder of images to show instead of hits"
    )
    # Not the shared option: elsewhere several make one plan, here each is a plan to compare.
    group.add_argument(
        "--reduce",
        type=_plan,
        action="append",
        metavar="NAME@BLOCK:S,K",
        help="a row: after BLOCK blocks, S segments keep K tokens each; then option=value,...; "
        "repeatable, each a row of its own; + joins the stages of one row (default: what the "
        "weights were trained with, else k-medoids with several S)",
    )
    group.add_argument(
        "--map",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="color clusters, and draw the tokens of each segment on the plane they vary most in",
    )
    group.add_argument(
        "--frames",
        type=_options.positive,
        metavar="N",
        help="of the video, at most (default: what the weights were trained with)",
    )


def _plan(text: str) -> list[str]:
    """The stages of a plan, joined by +; checked as far as the model is not needed."""
    stages = re.split(r"\+(?=[a-z])", text)  # 1e+3 is a number
    try:
        reducers.parse(stages)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return stages


def draw_centers(args: argparse.Namespace, *, tallest: int) -> Drawn:
    """What token clustering keeps of the video of --centers.

    Raises:
        UsageError, IncompatibleError, RequirementError: told before the video is decoded.
        TtvrError: the video has no usable frame; names it.
    """
    from ttvr import retriever
    from ttvr.show import centers, figure

    for stages in args.reduce or ():
        centers.require_clusters(reducers.parse(stages))
    # With the one head that has no weights: clusters depend on none.
    load = partial(
        retriever.load,
        args.weights,
        "meanp",
        activation=args.activation,
        device=args.device,
        frames=args.frames,
    )
    model = load((reducers.NONE,) if args.reduce else ())
    spare_threads(model)
    size, frames = model.clip.image_size, args.frames or model.recipe.frames
    plans = [model.plan]
    if not model.plan.canonical:
        texts = args.reduce or centers.usual_plans(model.clip, frames)
        plans = [centers.plan(model.clip, stages, frames=frames, load=load) for stages in texts]
    for plan in plans:
        centers.require_clusters(plan.stages.values())
    warn_of_toy(model.note, [Path(args.centers).stem])
    sampler, fps = model.recipe.sampler, model.recipe.fps
    try:
        found = centers.read(args.centers, frames=frames, sampler=sampler, fps=fps, size=size)
    except VideoError as error:
        raise TtvrError(f"{args.centers}: {error}") from error
    rows = []
    with Progress("plans", total=len(plans), mode=args.progress, quiet=args.quiet) as progress:
        for plan in plans:
            row = centers.collect(model.clip, plan, found.pixels, frames=frames, maps=args.map)
            rows.append(row)
            progress.step()
    image = figure(
        found.pixels, found.times, rows, title=args.centers, width=args.width, tallest=tallest
    )
    state = found.status.state
    facts = {"video": args.centers, "status": state, "frames": len(found.times)}
    return Drawn(image, {**facts, "rows": [_row_facts(row) for row in rows]}, state == "partial")


def _row_facts(row: Segmentation) -> dict[str, Any]:
    kept = row.kept()
    return {
        "reduce": row.plan,
        "segments": len(row.origin),
        "tokens": kept.size,
        "kept": int(kept.sum()),
    }
