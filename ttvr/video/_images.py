"""Animated GIF and WebP, and folders of images, through Pillow."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ttvr.errors import VideoError
from ttvr.video._choice import Choice
from ttvr.video._process import Deadline
from ttvr.video._types import Frames, Status, VideoInfo

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif"}
)
FOLDER_STEP = 1.0  # seconds that an image of a folder is shown
DEFAULT_STEP = 0.1  # seconds of an animation's frame that gives none, as browsers show it
_HEAD_SIZE = 21  # bytes that tell an animated WebP from a still one
_UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)


def is_animation(path: Path) -> bool:
    """Whether a file, by its first bytes, is for Pillow: a GIF, or a WebP of either kind."""
    return _head(path)[:4] == b"GIF8" or _is_webp(_head(path))


def is_animated_webp(path: Path) -> bool:
    """Whether a file is a WebP with more than one frame, by the flag in its header."""
    head = _head(path)
    return _is_webp(head) and head[12:16] == b"VP8X" and bool(head[20:21] and head[20] & 2)


def list_images(folder: Path) -> list[Path]:
    """Images directly in a folder, in natural order (2 before 10), without hidden ones."""
    found = [path for path in folder.iterdir() if is_image(path)]
    return sorted(found, key=lambda path: _natural(path.name))


def is_image(path: Path) -> bool:
    """Whether a name is that of an image and not hidden (`._x.jpg` is an Apple resource fork)."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def probe(path: Path) -> VideoInfo:
    """Facts of an animation or a folder of images.

    Raises:
        VideoError: it holds no readable image.
    """
    times, info = _timeline(path, Deadline.after(float("inf")))
    return info._replace(frames=len(times))


def read(path: Path, choice: Choice, *, size: int | None, deadline: Deadline) -> Frames:
    """Chosen frames of an animation or a folder of images.

    Raises:
        VideoError: an image cannot be read, the choice is empty, or time is up.
    """
    times, info = _timeline(path, deadline)
    chosen = choice.frames(times, info.duration)
    images = []
    for image in _open(path, chosen.tolist()):
        _check(deadline)
        images.append(np.asarray(fit(image, size)))
    status = Status("ok", info.duration, info.duration, 0)
    return Frames(stack(images), times[chosen].astype(np.float32), status, info)


def fit(image: Image.Image, size: int | None) -> Image.Image:
    """An image as it is, or with the short side scaled to `size` (bicubic) and cropped square."""
    if size is None:
        return image
    width, height = image.size
    short = min(width, height)
    image = image.resize((size * width // short, size * height // short), Image.Resampling.BICUBIC)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def stack(images: list[np.ndarray]) -> np.ndarray:
    """[T, H, W, 3] uint8; images of another size are scaled to that of the first."""
    height, width = images[0].shape[:2]
    same = [
        image
        if image.shape[:2] == (height, width)
        else np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
        for image in images
    ]
    return np.stack(same)


def _timeline(path: Path, deadline: Deadline) -> tuple[np.ndarray, VideoInfo]:
    """Times [n] float64 of all frames from the first, and the facts."""
    if path.is_dir():
        images = list_images(path)
        if not images:
            raise VideoError("no_video_stream", f"the folder {path.name} holds no image")
        times = np.arange(len(images)) * FOLDER_STEP
        duration = len(images) * FOLDER_STEP
    else:
        steps = []
        for image in _open(path, None):
            _check(deadline)
            steps.append(image.info.get("duration", 0) / 1000 or DEFAULT_STEP)
        times = np.cumsum([0.0, *steps[:-1]])
        duration = float(sum(steps))
    first = next(_open(path, [0]))
    codec = "images" if path.is_dir() else path.suffix[1:].lower()
    frames = len(times)
    return times, VideoInfo(
        first.width, first.height, frames / duration, duration, frames, codec, 0, 0.0
    )


def _open(path: Path, chosen: list[int] | None) -> Iterator[Image.Image]:
    """The chosen images (None: all), upright and RGB, one after the other.

    Frames of an animation keep their `info`, so that its durations can be read from them.
    """
    if path.is_dir():
        images = list_images(path)
        for index in range(len(images)) if chosen is None else chosen:
            yield from _frames(images[index], [0])
    else:
        yield from _frames(path, chosen)


def _frames(path: Path, chosen: list[int] | None) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as image:
            total = getattr(image, "n_frames", 1)
            for index in range(total) if chosen is None else chosen:
                image.seek(index)
                image.load()
                # A copy: the file's own image changes when it moves on.
                frame = ImageOps.exif_transpose(image).convert("RGB")
                frame.info["duration"] = image.info.get("duration", 0)
                yield frame
    except UnidentifiedImageError:
        raise VideoError("invalid_data", f"{path.name} is no image that Pillow knows") from None
    except _UNREADABLE as error:
        raise VideoError("invalid_data", f"{path.name}: {error}") from None


def _check(deadline: Deadline) -> None:
    if deadline.left() == 0:
        raise VideoError("timeout", f"no end after {deadline.limit:g} s")


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD_SIZE)


def _is_webp(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def _natural(name: str) -> list[tuple[bool, int, str]]:
    parts = re.findall(r"\d+|\D+", name)
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]
