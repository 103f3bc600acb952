"""Which frames of a video, and how they become the input of CLIP."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

# Of OpenAI's CLIP, per RGB channel, for pixels in 0..1.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

# Pixels that Pillow may scale a frame to; beyond, 1300 times as long as wide at 224, only the crop
# is computed, which is slower for the usual shapes and takes no more memory for the others.
_SCALED_LIMIT = 1 << 26
_PRECISION = (
    22  # bits of Pillow's fixed-point filter weights: 32 less 8 of a pixel, less 2 to spare
)
_BICUBIC_A = -0.5
_SUPPORT = 2.0  # source pixels on each side that the cubic reaches, before stretching


def uniform_indices(n: int, length: int) -> list[int]:
    """The middle frame of each of `length` equal segments, as CenterCLIP evaluates.

    Computed in float64: an exact-integer formula gives other frames for some n, as 16, 32 or 64.

    Args:
        n: number of frames to choose from, at least 1.
        length: number of frames wanted.

    Returns:
        `length` ascending indices below n; where n is no larger, all of them, the last repeated.
    """
    _check(n, length)
    if n <= length:
        return [min(i, n - 1) for i in range(length)]
    segment = n / length
    return [int(segment / 2 + segment * i) for i in range(length)]


def linspace_indices(n: int, length: int) -> list[int]:
    """Evenly spaced from the first frame to the last, cut to whole numbers, as CLIP4Clip samples.

    Args:
        n: number of frames to choose from, at least 1.
        length: number of frames wanted.

    Returns:
        `length` ascending indices below n, or all n where n is no larger.
    """
    _check(n, length)
    if n <= length:
        return list(range(n))
    return np.linspace(0, n - 1, num=length, dtype=int).tolist()


def random_indices(n: int, length: int, *, generator: np.random.Generator) -> list[int]:
    """One random frame of each segment of n // length frames, as CenterCLIP trains.

    Frames from length * (n // length) on are never chosen, as published.

    Args:
        n: number of frames to choose from, at least 1.
        length: number of frames wanted.
        generator: where the randomness comes from.

    Returns:
        `length` ascending indices below n; where n is no larger, all of them, the last repeated.
    """
    _check(n, length)
    if n <= length:
        return [min(i, n - 1) for i in range(length)]
    segment = n // length
    return (np.arange(length) * segment + generator.integers(0, segment, length)).tolist()


SAMPLERS: dict[str, Callable[[int, int], list[int]]] = {
    "segment": uniform_indices,
    "linspace": linspace_indices,
}


def preprocess(frames: np.ndarray | Tensor, size: int) -> Tensor:
    """Frames as CLIP's own preprocessing makes them: Pillow's bicubic, center crop, normalized.

    Args:
        frames: [T, H, W, 3] uint8 RGB.
        size: side of the square.

    Returns:
        [T, 3, size, size] float32, normalized.
    """
    _, height, width, _ = frames.shape
    tall, wide, top, left = _geometry(height, width, size)
    if tall * wide > _SCALED_LIMIT:
        return resize_on_device(torch.as_tensor(frames), size)
    box = (left, top, left + size, top + size)
    resized = [
        np.asarray(
            Image.fromarray(np.asarray(frame))
            .resize((wide, tall), Image.Resampling.BICUBIC)
            .crop(box)
        )
        for frame in frames
    ]
    return normalize(np.stack(resized))


def normalize(frames: np.ndarray | Tensor, mask: Tensor | None = None) -> Tensor:
    """Pixels as CLIP takes them, on the device where they are.

    Args:
        frames: [..., H, W, 3] uint8 RGB.
        mask: [...] bool on the same device, True = real; None: all are.

    Returns:
        [..., 3, H, W] float32, (pixel / 255 - mean) / std; zero where a frame is not real.
    """
    pixels = torch.as_tensor(frames).movedim(-1, -3)
    mean, std = (torch.tensor(of, device=pixels.device).view(3, 1, 1) for of in (MEAN, STD))
    # One pass that copies, and the others in place: a quarter of the time that copies take.
    made = pixels.float(memory_format=torch.contiguous_format)
    if made is pixels:  # float32 already, and the caller's
        made = pixels.clone(memory_format=torch.contiguous_format)
    made.div_(255).sub_(mean).div_(std)
    return made if mask is None else made.masked_fill_(~mask[..., None, None, None], 0)


def resize_on_device(frames: Tensor, size: int) -> Tensor:
    """What `preprocess` gives, computed on the device where the frames are.

    Pillow's filter in its own fixed-point arithmetic, so the levels are equal, not just close:
    rows first, rounded to 8 bits, then columns. Only what the crop keeps is computed.

    Args:
        frames: [T, H, W, 3] uint8 RGB.
        size: side of the square.

    Returns:
        [T, 3, size, size] float32, normalized.
    """
    _, height, width, _ = frames.shape
    tall, wide, top, left = _geometry(height, width, size)
    rows = _filtered(frames, 2, _weights(width, wide, left, size))
    return normalize(_filtered(rows, 1, _weights(height, tall, top, size)))


def _check(n: int, length: int) -> None:
    if n < 1 or length < 1:
        raise ValueError(f"cannot choose {length} of {n} frames")


def _geometry(height: int, width: int, size: int) -> tuple[int, int, int, int]:
    """Height and width after scaling, top and left of the crop, as torchvision rounds them."""
    short = min(height, width)
    tall, wide = int(size * height / short), int(size * width / short)
    return tall, wide, round((tall - size) / 2), round((wide - size) / 2)


def _filtered(pixels: Tensor, dim: int, taps: tuple[np.ndarray, np.ndarray]) -> Tensor:
    """Weighted sums along one dimension, rounded to uint8: one product per tap, in int32."""
    first, weights = (torch.from_numpy(part).to(pixels.device) for part in taps)
    last = pixels.shape[dim] - 1
    shape = [1] * pixels.ndim
    shape[dim] = -1
    total: Tensor | int = 1 << (_PRECISION - 1)
    for k in range(weights.shape[1]):
        # Beyond the edge the weight is 0; the index only has to be a valid one.
        taken = pixels.index_select(dim, (first + k).clamp(max=last))
        total = total + taken.int() * weights[:, k].view(shape)
    return (total >> _PRECISION).clamp(0, 255).to(torch.uint8)


@functools.lru_cache(maxsize=64)
def _weights(source: int, target: int, begin: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pillow's bicubic weights for some of the output pixels.

    Args:
        source: pixels before.
        target: pixels after.
        begin: first output pixel wanted.
        count: how many.

    Returns:
        [count] int64 first source pixel of each, and [count, K] int32 weights in units of
        2^-22, zero where fewer than K source pixels matter.
    """
    scale = source / target
    stretch = max(scale, 1.0)
    centers = (np.arange(begin, begin + count) + 0.5) * scale
    first = np.maximum((centers - _SUPPORT * stretch + 0.5).astype(np.int64), 0)
    end = np.minimum((centers + _SUPPORT * stretch + 0.5).astype(np.int64), source)
    taps = first[:, None] + np.arange((end - first).max())
    weights = _cubic((taps - centers[:, None] + 0.5) / stretch)
    weights[taps >= end[:, None]] = 0
    weights /= weights.sum(1, keepdims=True)
    fixed = weights * (1 << _PRECISION)
    return first, np.trunc(fixed + np.copysign(0.5, fixed)).astype(np.int32)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel."""
    a, x = _BICUBIC_A, np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
