"""`ttvr-show --attention`: its flags, and from them to a picture."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ttvr.commands import _options
from ttvr.commands._show_centers import Drawn
from ttvr.commands._threads import spare_threads
from ttvr.commands._toy import warn_of_toy
from ttvr.errors import TtvrError, UsageError, VideoError

if TYPE_CHECKING:
    from ttvr.retriever import Retriever
    from ttvr.video import Frames

ONLY_ATTENTION = ("query", "head")


def add_attention(group: argparse._ArgumentGroup) -> None:
    """The flags that go with --attention, those of the model aside."""
    group.add_argument(
        "--attention",
        metavar="VIDEO",
        help="a video or a folder of images whose frames are weighed for --query",
    )
    group.add_argument("--query", action="append", metavar="TEXT", help="the sentence")
    _options.add(
        group, "head", head="that weighs; by default the one the weights were trained with"
    )


def draw_attention(args: argparse.Namespace, *, tallest: int) -> Drawn:
    """How much the frames of the video of --attention count for the sentence and for its words.

    Raises:
        UsageError, IncompatibleError, RequirementError: told before the video is decoded.
        TtvrError: the video has no usable frame; names it.
    """
    if args.query is None or not args.query[0].strip():
        raise UsageError("--query is missing: the sentence that the frames are weighed for")
    if len(args.query) > 1:
        raise UsageError("--query is given twice: a picture is of one sentence")
    (query,) = args.query
    from ttvr import retriever
    from ttvr.clip import tokenizer
    from ttvr.search import report_unknown
    from ttvr.show import attention, attention_figure

    model = retriever.load(args.weights, args.head, activation=args.activation, device=args.device)
    spare_threads(model)
    attention.require_weights(model.head)
    warn_of_toy(model.note, [Path(args.attention).stem])
    most = model.text_length
    tokenizer.count_long([query], most=most, on_long="truncate", what="queries")
    report_unknown(model, [query], what="queries")
    found = _read(args.attention, model)
    frames = model.recipe.frames
    weights = attention.collect(model, query, found.pixels, frames=frames)
    image = attention_figure(
        found.pixels,
        found.times,
        weights,
        frames=frames,
        title=query,
        about=f"{args.attention}, head {model.head_name}",
        width=args.width,
        tallest=tallest,
    )
    state = found.status.state
    facts = {
        "video": args.attention,
        "status": state,
        "frames": len(found.times),
        "query": query,
        "head": model.head_name,
        "what": weights.what,
        "tokens": list(weights.tokens),
        "sentence": weights.sentence.tolist(),
        "words": None if weights.words is None else weights.words.tolist(),
    }
    return Drawn(image, facts, state == "partial")


def _read(path: str, model: Retriever) -> Frames:
    from ttvr.show import centers

    recipe, size = model.recipe, model.clip.image_size
    try:
        return centers.read(
            path, frames=recipe.frames, sampler=recipe.sampler, fps=recipe.fps, size=size
        )
    except VideoError as error:
        raise TtvrError(f"{path}: {error}") from error
