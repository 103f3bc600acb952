"""Videos per second of ttvr-extract, by number of decoders, beside a loop over PyAV and PIL."""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ttvr.bench._table import Table, alternate, median
from ttvr.errors import RequirementError
from ttvr.records import VideoFeatures

if TYPE_CHECKING:
    from ttvr.extract import Input, Options
    from ttvr.retriever import Retriever


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """Options of this benchmark."""
    group.add_argument("videos", nargs="+", help="videos, or folders of them")
    group.add_argument("-w", "--weights", default="default", help="a checkpoint or its name")
    group.add_argument(
        "-j", "--jobs", type=int, nargs="+", default=[1, 2], help="numbers of decoders to compare"
    )
    group.add_argument(
        "--reduce",
        action="append",
        default=[],
        metavar="NAME@BLOCK:S,K",
        help="token reducer, as of ttvr-extract, repeatable; of every contender",
    )
    group.add_argument("--frames", type=int, default=12, help="frames per video")
    group.add_argument("--rounds", type=int, default=3, help="runs of each, in turn")
    group.add_argument("--threads", type=int, default=1, help="threads of the model")


def run(args: argparse.Namespace) -> Table:
    """Each contender goes from the files on disk to `.npy` features on disk."""
    import torch

    from ttvr import extract, retriever

    torch.set_num_threads(args.threads)
    model = retriever.load(args.weights, reduce=args.reduce, frames=args.frames)
    inputs = _decodable(extract.find_inputs(args.videos).items)
    work = Path(tempfile.mkdtemp(prefix="ttvr-bench-"))
    contenders: dict[str, Callable[[], object]] = {}
    made_by = model.identity()
    plan = " ".join(made_by["reduce"]) or "none"
    size = f"{args.frames} frames, {args.threads} model threads"
    notes = [f"{made_by['arch']}, reduction {plan}, {size}"]
    try:
        for jobs in args.jobs:
            options = extract.Options(args.frames, "segment", None, jobs=jobs)
            contenders[f"ttvr-extract -j {jobs}"] = _ours(inputs, work / "ours", model, options)
        try:
            contenders["PyAV + PIL loop"] = _plain_loop(inputs, work / "plain", model, args.frames)
        except RequirementError as error:
            notes.append(str(error))
        seconds = alternate(contenders, rounds=args.rounds)
    finally:
        shutil.rmtree(work)
    reference = median(list(seconds.values())[-1])
    rows = [
        (name, len(inputs) / median(runs), reference / median(runs))
        for name, runs in seconds.items()
    ]
    return Table(
        title=f"extraction of {len(inputs)} videos",
        columns=("contender", "videos/s", f"times {list(seconds)[-1]}"),
        rows=rows,
        notes=notes,
    )


def _decodable(inputs: Sequence[Input]) -> list[Input]:
    """Those that PyAV can read too, if it is there: both sides do the same work."""
    try:
        import av
    except ImportError:
        return list(inputs)
    kept = []
    for item in inputs:
        try:
            with av.open(str(item.clip.path)) as container:
                for _ in container.decode(video=0):
                    pass
            kept.append(item)
        except (av.FFmpegError, IndexError, OSError):
            continue
    return kept


def _ours(
    inputs: Sequence[Input], folder: Path, model: Retriever, options: Options
) -> Callable[[], object]:
    from ttvr import extract

    return lambda: extract.run(
        inputs, folder, retriever=model, options=options, provenance={}, overwrite=True
    )


def _plain_loop(
    inputs: Sequence[Input], folder: Path, model: Retriever, frames: int
) -> Callable[[], object]:
    """What a short script does: every frame is decoded, the chosen ones go through PIL."""
    try:
        import av
    except ImportError as error:
        raise RequirementError("without PyAV no plain loop to compare with: pip install av") from (
            error
        )
    import torch

    from ttvr.frames import preprocess, uniform_indices

    @torch.inference_mode()
    def loop() -> None:
        folder.mkdir(exist_ok=True)
        for number, item in enumerate(inputs):
            with av.open(str(item.clip.path)) as container:
                decoded = list(container.decode(video=0))
            chosen = [decoded[index] for index in uniform_indices(len(decoded), frames)]
            images = np.stack([np.asarray(frame.to_image()) for frame in chosen])
            pixels = preprocess(images, model.clip.image_size)
            mask = torch.ones(1, frames, dtype=torch.bool)
            found: VideoFeatures = model.encode_video(torch.as_tensor(pixels)[None], mask)
            np.save(folder / f"{number}.npy", found.frames[0].numpy().astype("f2"))

    return loop


PLUGIN = run
