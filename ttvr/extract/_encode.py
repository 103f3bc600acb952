"""Decoded frames -> stored rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ttvr import frames as framing
from ttvr.devices import autocast
from ttvr.errors import TtvrError
from ttvr.extract._decode import Decoded
from ttvr.extract._options import Options
from ttvr.records import VideoFeatures
from ttvr.retriever import Retriever


class Encoder:
    """Makes the rows of videos.

    Every forward pass has the same shape, the last one is filled up: what a video becomes depends
    on nothing but its own frames, however videos are grouped and wherever a run was resumed.

    Args:
        retriever: in evaluation mode.
        options: see `Options`.
    """

    def __init__(self, retriever: Retriever, options: Options) -> None:
        self._retriever, self._options = retriever, options
        self._padding: VideoFeatures | None = None
        on_cpu = retriever.device.type == "cpu"
        self.image_size = retriever.clip.image_size
        self.videos_per_pass = 1 if on_cpu else options.batch_size

    @torch.inference_mode()
    def rows(self, videos: Sequence[Decoded], names: Sequence[str]) -> list[dict[str, np.ndarray]]:
        """The row of every array, for up to `videos_per_pass` videos.

        Args:
            videos: their frames.
            names: what errors call them.

        Raises:
            TtvrError: the model fails, or gives NaN or infinity; names the video.
        """
        filled = [*videos, *[videos[-1]] * (self.videos_per_pass - len(videos))]
        pixels, mask = self._batch(filled)
        try:
            features = self._features(pixels, mask)
            vectors = self._retriever.head.vector_video(features)
            features = _emptied(features, patches=self._options.patches)
        except (RuntimeError, TtvrError) as error:
            raise TtvrError(
                f"the model failed on {', '.join(names)}: {error}; what is done is kept"
            ) from error
        rows = []
        for number, (video, name) in enumerate(zip(videos, names, strict=True)):
            row = self._row(features, vectors, number, video.times)
            for array in ("video", "frames", "patches"):
                if array in row and not np.isfinite(row[array]).all():
                    raise TtvrError(
                        f"{name}: the model gives NaN or infinity, stored as "
                        f"{self._options.dtype}; what is done before it is kept; "
                        "try --precision fp32 or --dtype float32"
                    )
            rows.append(row)
        return rows

    @torch.inference_mode()
    def row_bytes(self) -> int:
        """Bytes that one video takes in the folder."""
        size, T = self.image_size, self._options.frames
        empty = Decoded({}, np.zeros((T, size, size, 3), np.uint8), np.zeros(T, np.float32))
        return sum(array.nbytes for array in self.rows([empty], ["an empty video"])[0].values())

    def _batch(self, videos: Sequence[Decoded]) -> tuple[Tensor, Tensor]:
        """Frames [B, T, 3, H, W] float32 normalized, zero padded, and their mask [B, T]."""
        size, T = self.image_size, self._options.frames
        device = self._retriever.device
        batch = torch.zeros(len(videos), T, 3, size, size, device=device)
        mask = torch.zeros(len(videos), T, dtype=torch.bool, device=device)
        for number, video in enumerate(videos):
            pixels = torch.from_numpy(video.pixels).to(device)
            if pixels.dtype == torch.uint8:
                pixels = framing.normalize(pixels)
            batch[number, : len(pixels)] = pixels
            mask[number, : len(pixels)] = True
        return batch, mask

    def _features(self, pixels: Tensor, mask: Tensor) -> VideoFeatures:
        """What the encoder makes of it, float32, with the patches that are stored or scored."""
        patches = self._options.patches or self._retriever.head.needs_patches
        with autocast(self._retriever.device, self._options.precision):
            if self._padding is None and self._retriever.plan.reducers:
                self._padding = self._retriever.padding(self._options.frames, patches=patches)
            found = self._retriever.encode_video(
                pixels, mask, patches=patches, padding=self._padding
            )
        kept = None if found.patches is None else found.patches.float()
        return VideoFeatures(found.frames.float(), found.mask, kept)

    def _row(
        self, features: VideoFeatures, vectors: Tensor, number: int, times: np.ndarray
    ) -> dict[str, np.ndarray]:
        stored = self._options.stored_dtype
        real = features.mask[number].cpu().numpy()
        row = {
            "video": vectors[number].float().cpu().numpy().astype(stored),
            "mask": real,
            "times": self._times(times, real),
        }
        if self._options.keep_frames:
            row["frames"] = features.frames[number].cpu().numpy().astype(stored)
        if features.patches is not None:
            row["patches"] = features.patches[number].cpu().numpy().astype(stored)
        return row

    def _times(self, times: np.ndarray, real: np.ndarray) -> np.ndarray:
        """Seconds [T'] float32 of each frame or of the first frame of each segment; else NaN."""
        padded = np.full(self._options.frames, np.nan, "<f4")
        padded[: len(times)] = times
        starts = padded[:: self._options.frames // len(real)]
        return np.where(real, starts, np.nan).astype("<f4")


def _emptied(video: VideoFeatures, *, patches: bool) -> VideoFeatures:
    """As a folder has it: zeros where frames are padded, and patches only where wanted."""
    real = video.mask.unsqueeze(-1)
    kept = torch.where(real.unsqueeze(-1), video.patches, 0.0) if patches else None
    return VideoFeatures(torch.where(real, video.frames, 0.0), video.mask, kept)
