"""Files per video -> feature folder: what others have encoded, or an export of ours."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ttvr.errors import IncompatibleError, UsageError
from ttvr.extract._options import DTYPES, SHARD_ROWS
from ttvr.extract._run import OnStep, Summary, problems, tell_done
from ttvr.records import VideoFeatures
from ttvr.retriever import Retriever
from ttvr.store import MOST_FRAMES, Files, Settings, Taken, Writer, read_per_video
from ttvr.wording import counted

_ARRAYS = ("video", "frames", "mask", "times")

log = logging.getLogger(__name__)


def run_import(
    files: Files,
    folder: Path,
    *,
    retriever: Retriever | None,
    frames: int | None = None,
    dtype: str = "float16",
    provenance: Mapping[str, Any],
    overwrite: bool = False,
    on_step: OnStep = lambda status, kept: None,
) -> Summary:
    """Make a feature folder of files per video, or go on with it.

    Args:
        files: as `store.find_per_video`.
        folder: the output.
        retriever: whose CLIP made the frames, and whose head makes their vectors; None: `files`
            are an export, which says that, and holds the vectors.
        frames: T of the rows; None: that of the longest video. Longer videos fail.
        dtype: float16 or float32, of the rows. Both are told by an export.
        provenance: goes into `meta.json`.
        overwrite: remove what is there.
        on_step: as of `run`.

    Raises:
        IncompatibleError: no array is of the model's width.
        UsageError: more frames than a row has room for.
        TtvrError: of the store.
    """
    if retriever is None:
        settings, taken, pad = _of_export(files, provenance)
    else:
        settings, taken, pad = _of_model(files, retriever, frames, dtype, provenance)
    made = Writer(folder, files.sources, settings=settings, pad=pad, overwrite=overwrite)
    meta = made.finished()
    kept = {source.id for source in files.sources}
    if meta is not None:
        tell_done(meta["counts"], on_step)
        return Summary(meta, problems(folder, kept), len(kept))
    with made as writer:
        tell_done(writer.counts, on_step)
        for source in files.sources[writer.done :]:
            outcome = writer.kept(source)
            is_new = outcome is None
            if is_new:
                kept.discard(source.id)
                outcome = read_per_video(files, source, taken)
            writer.add(outcome)
            on_step(outcome.facts["status"], not is_new)
        meta = writer.finish()
    return Summary(meta, problems(folder, kept), len(kept))


def _of_export(files: Files, provenance: Mapping[str, Any]) -> tuple[Settings, Taken, np.ndarray]:
    """What an export says of itself."""
    meta, pad = files.origin["meta"], np.array(files.origin["pad"], dtype=np.float32)
    settings = Settings(
        arrays=_ARRAYS,
        dtype=meta["dtype"],
        shard_rows=meta["shard_rows"],
        model=meta["model"],
        preprocess=meta["preprocess"],
        provenance={**meta["provenance"], **provenance},
        data=meta.get("data"),
    )
    return settings, Taken(meta["frames"], len(pad), meta["dim"], meta["dtype"], None), pad


def _of_model(
    files: Files,
    retriever: Retriever,
    frames: int | None,
    dtype: str,
    provenance: Mapping[str, Any],
) -> tuple[Settings, Taken, np.ndarray]:
    """What is known of frames when the model that made them is."""
    shapes = {source: files.shape(source) for source in files.sources}
    known = {source: shape for source, shape in shapes.items() if shape is not None}
    width = retriever.clip.width
    if known and all(width != D for _, D in known.values()):
        source, (_, D) = next(iter(known.items()))
        raise IncompatibleError(
            f"{files.folder / source.path} has a width of {D}, {retriever.source} makes {width}: "
            "pass the checkpoint that made the frames with -w"
        )
    T = frames or max([1, *(T for T, D in known.values() if width == D)])
    if T > MOST_FRAMES:
        raise UsageError(f"rows of {T} frames, at most {MOST_FRAMES} are made; pass --frames")
    if frames is None:
        # One long video makes all rows long: the disk may be full before anybody wonders.
        log.info("rows have %s, those of the longest video (--frames)", counted(T, "frame"))

    @torch.inference_mode()
    def vector(found: np.ndarray) -> np.ndarray:
        mask = torch.ones(1, len(found), dtype=torch.bool)
        video = VideoFeatures(torch.from_numpy(found)[None], mask, None)
        return retriever.head.vector_video(video)[0].numpy()

    # Which frames these are, and how pixels became numbers, nobody told: no sampler, no resize.
    choices = {"frames": T}
    digest = hashlib.sha256(json.dumps(["imported", choices]).encode()).hexdigest()
    settings = Settings(
        arrays=_ARRAYS,
        dtype=DTYPES[dtype],
        shard_rows=SHARD_ROWS,
        model=retriever.identity(),
        preprocess={"hash": f"sha256:{digest}", **choices},
        provenance=provenance,
    )
    taken = Taken(T, width, retriever.head.vector_width, DTYPES[dtype], vector)
    return settings, taken, retriever.pad_frame().cpu().numpy()
