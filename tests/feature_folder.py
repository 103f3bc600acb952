"""A small checkpoint and feature folders made with it, for tests that rank."""

from __future__ import annotations

import numpy as np
import torch
from tiny import EMBED, tiny_state

from ttvr import retriever
from ttvr.records import VideoFeatures
from ttvr.store import Features, Outcome, Settings, Source, Writer, export_per_video

T, P = 3, 16
PAD = np.linspace(-1, 1, EMBED, dtype="f4")
NAMES = {
    "a/one": "a/one.mp4",
    "two, three": "two, three.mov",
    "caf\u00e9": "caf\u00e9.mp4",
    "tab\there": "tab\there.mp4",
    "five": "five",
    "six": "six.webm",
    "seven": "seven.mp4",
}


def write_checkpoint(path, *, seed=0):
    torch.save(tiny_state(vocabulary=49408, seed=seed), path)
    return path


def write_features(
    folder, model, *, names=NAMES, root="/clips", without=("patches",), copies=(), argv=""
):
    """Random frames under these names; `copies` are ids that repeat the first video."""
    known = ("video", "frames", "mask", "times", "patches")
    arrays = [name for name in known if name not in without]
    sources = [Source(name, root, path, 1, 1) for name, path in names.items()]
    settings = Settings(
        arrays=tuple(arrays),
        dtype="<f2",
        shard_rows=2,
        model=model.identity(),
        preprocess={"hash": "sha256:pixels", "sampler": "segment", "frames": T},
        provenance={"precision": "fp32", "argv": argv},
    )
    with Writer(folder, sources, settings=settings, pad=PAD) as writer:
        for number, source in enumerate(sources):
            generator = torch.Generator().manual_seed(0 if source.id in copies else number)
            mask = torch.arange(T)[None] <= (0 if source.id in copies else number % T)
            # Not times the mask: that leaves zeros with a sign, which no extraction writes.
            frames = torch.randn(1, T, EMBED, generator=generator).where(mask[..., None], 0)
            patches = torch.randn(1, T, P, EMBED, generator=generator)
            patches = patches.where(mask[..., None, None], 0)
            video = VideoFeatures(frames, mask, patches)
            with torch.inference_mode():
                vector = model.head.vector_video(video)
            row = {
                "video": vector[0].numpy(),
                "frames": frames[0].numpy(),
                "patches": patches[0].numpy(),
                "mask": mask[0].numpy(),
                "times": np.where(mask[0], np.arange(T) + 0.25, np.nan),
            }
            dtypes = {"mask": "|b1", "times": "<f4"}
            row = {name: row[name].astype(dtypes.get(name, "<f2")) for name in arrays}
            writer.add(Outcome({"status": "ok", "duration": 1.0, "frames": T}, row))
        writer.finish()
    return folder


def write_home(home):
    """clip.pt, other.pt, and feats/ made with the first; returns the model of the first."""
    write_checkpoint(home / "clip.pt")
    write_checkpoint(home / "other.pt", seed=1)
    model = retriever.load(home / "clip.pt")
    write_features(home / "feats", model)
    return model


def write_exported(home):
    """As `write_home`, and files/ exported of feats/; returns the folder."""
    write_home(home)
    export_per_video(Features.open(home / "feats"), home / "files")
    return home
