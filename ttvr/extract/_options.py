"""How features are made, and what of it a feature folder has to agree on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from ttvr import frames as framing
from ttvr.extract._decode import Decoding
from ttvr.extract._inputs import Read, read_file
from ttvr.retriever import Retriever
from ttvr.store import Settings

DTYPES = {"float16": "<f2", "float32": "<f4"}
SHARD_ROWS = 8192


class Options(NamedTuple):
    """How features are made.

    Attributes:
        frames: T per video.
        sampler: a name of `frames.SAMPLERS`.
        fps: candidates per second the sampler chooses from; None: all frames.
        exact_resize: resize as PIL does, from full frames, not in ffmpeg.
        drawn: clips are no files but drawn at the size that the model takes.
        keep_frames: write `frames/`.
        patches: write `patches/`.
        dtype: float16 or float32, of what is written.
        shard_rows: rows per file.
        precision: fp32, bf16 or fp16: autocast of the model.
        batch_size: videos per forward pass on a GPU. On a CPU each has one of its own: larger ones
            are not faster (ViT-B/32, one thread: 1.00 to 1.12 times the time per video).
        jobs: decoders at once.
        timeout: seconds to decode one video.
    """

    frames: int
    sampler: str
    fps: float | None
    exact_resize: bool = False
    drawn: bool = False
    keep_frames: bool = True
    patches: bool = False
    dtype: str = "float16"
    shard_rows: int = SHARD_ROWS
    precision: str = "fp32"
    batch_size: int = 16
    jobs: int = 1
    timeout: float = 60.0

    @property
    def stored_dtype(self) -> str:
        """The dtype as a `.npy` header spells it."""
        return DTYPES[self.dtype]

    def decoding(self, size: int, read: Read = read_file) -> Decoding:
        """The part that decoders need.

        Args:
            size: side of the model's input, pixels.
            read: what gives the frames of a clip.
        """
        return Decoding(
            frames=self.frames,
            sampler=self.sampler,
            fps=self.fps,
            size=size,
            exact_resize=self.exact_resize,
            timeout=self.timeout,
            read=read,
        )


def settings(
    retriever: Retriever,
    options: Options,
    provenance: Mapping[str, Any],
    data: Mapping[str, str] | None,
) -> Settings:
    """What all rows of a folder share."""
    return Settings(
        arrays=_arrays(options),
        dtype=options.stored_dtype,
        shard_rows=options.shard_rows,
        model=retriever.identity(),
        preprocess=_preprocess(options, retriever.clip.image_size),
        provenance={**provenance, "precision": options.precision},
        data=data,
    )


def shared_without_weights(
    options: Options, *, unknown: Collection[str], data: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The part of `meta.json` that has to agree, as far as no weights are needed to tell.

    Args:
        options: see `Options`.
        unknown: fields of `options` that the weights would decide.
        data: the dataset and the split, as `Inputs.data`.
    """
    made = Settings(
        arrays=_arrays(options),
        dtype=options.stored_dtype,
        shard_rows=options.shard_rows,
        model={},
        preprocess={k: v for k, v in _choices(options).items() if k not in unknown},
        provenance={"precision": options.precision},
        data=data,
    )
    return made.shared()


def _arrays(options: Options) -> tuple[str, ...]:
    kept = {"frames": options.keep_frames, "patches": options.patches}
    arrays = ("video", "frames", "mask", "patches", "times")
    return tuple(name for name in arrays if kept.get(name, True))


def _preprocess(options: Options, size: int) -> dict[str, Any]:
    """All that changes pixels or the choice of frames, and its hash."""
    made = {**_choices(options), "size": size}
    canonical = json.dumps(made, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    return {"hash": f"sha256:{digest}", **made}


def _choices(options: Options) -> dict[str, Any]:
    """What of it the weights do not decide."""
    resize = "pil-bicubic" if options.exact_resize else "ffmpeg-bicubic"
    if options.drawn and not options.exact_resize:
        resize = "none (drawn)"
    return {
        "sampler": options.sampler,
        "fps": options.fps,
        "frames": options.frames,
        "resize": resize,
        "crop": "center",
        "mean": list(framing.MEAN),
        "std": list(framing.STD),
    }
