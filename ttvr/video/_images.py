"""Animated GIF and WebP, and folders of images, through Pillow."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from concurrent.futures import CancelledError
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
SCALED_LIMIT = 1 << 26  # pixels of a scaled image: 1300 times as long as wide at 224


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
    return _timeline(path, Deadline.after(float("inf")))[1]


def read(path: Path, choice: Choice, *, size: int | None, deadline: Deadline) -> Frames:
    """Chosen frames of an animation or a folder of images.

    Raises:
        VideoError: an image cannot be read, the choice is empty, or time is up.
        CancelledError: the deadline's `stop` was set.
    """
    times, info, status = _timeline(path, deadline)
    chosen = choice.frames(times, status.decoded_s)
    images = []
    for image in _open(path, chosen.tolist()):
        _check(deadline)
        images.append(np.asarray(fit(image, size)))
    return Frames(stack(images), times[chosen].astype(np.float32), status, info)


def fit(image: Image.Image, size: int | None) -> Image.Image:
    """An image as it is, or with the short side scaled to `size` (bicubic) and cropped square.

    Raises:
        VideoError: it is so narrow that it would be scaled to more than SCALED_LIMIT pixels.
    """
    if size is None:
        return image
    wide, tall, left, top = geometry(*image.size, size)
    if wide * tall > SCALED_LIMIT:
        detail = f"{image.width} x {image.height} pixels are too narrow to be scaled to {size}"
        raise VideoError("invalid_data", detail)
    image = image.resize((wide, tall), Image.Resampling.BICUBIC)
    return image.crop((left, top, left + size, top + size))


def geometry(width: int, height: int, size: int) -> tuple[int, int, int, int]:
    """Width and height after scaling, left and top of the crop."""
    short = min(width, height)
    wide, tall = size * width // short, size * height // short
    return wide, tall, round((wide - size) / 2), round((tall - size) / 2)


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


def _timeline(path: Path, deadline: Deadline) -> tuple[np.ndarray, VideoInfo, Status]:
    """Times [n] float64 of all readable frames from the first, the facts, and the state."""
    is_cut = False
    if path.is_dir():
        images = list_images(path)
        if not images:
            raise VideoError("no_video_stream", f"the folder {path.name} holds no image")
        steps = [FOLDER_STEP] * len(images)
    else:
        steps, is_cut = _steps(path, deadline)
    times = np.cumsum([0.0, *steps[:-1]])
    seconds = float(sum(steps))
    first = next(_open(path, [0]))
    codec = "images" if path.is_dir() else path.suffix[1:].lower()
    promised = (None, None) if is_cut else (seconds, len(steps))
    info = VideoInfo(
        first.width, first.height, len(steps) / seconds, *promised, codec, rotation=0, start=0.0
    )
    state = Status("partial" if is_cut else "ok", promised[0], seconds, int(is_cut))
    return times, info, state


def _steps(path: Path, deadline: Deadline) -> tuple[list[float], bool]:
    """Seconds of each frame of an animation up to one that cannot be read; if there is one."""
    steps: list[float] = []
    try:
        with _reading(path), Image.open(path) as image:
            while _is_at(image, len(steps)):
                _check(deadline)
                image.load()
                steps.append(image.info.get("duration", 0) / 1000 or DEFAULT_STEP)
    except VideoError as error:
        if error.code != "invalid_data" or not steps:
            raise
        return steps, True
    return steps, False


def _is_at(image: Image.Image, index: int) -> bool:
    """Move on to a frame; False if there are no more."""
    try:
        image.seek(index)
    except EOFError:
        return False
    return True


def _open(path: Path, chosen: list[int]) -> Iterator[Image.Image]:
    """The chosen images, upright and RGB, one after the other."""
    if path.is_dir():
        images = list_images(path)
        for index in chosen:
            yield from _frames(images[index], [0])
    else:
        yield from _frames(path, chosen)


def _frames(path: Path, chosen: list[int]) -> Iterator[Image.Image]:
    with _reading(path), Image.open(path) as image:
        for index in chosen:
            image.seek(index)
            # A copy: the file's own image changes when it moves on.
            yield ImageOps.exif_transpose(image).convert("RGB")


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Make of whatever Pillow raises a VideoError: on damaged files it is all kinds of things."""
    try:
        yield
    except (VideoError, CancelledError):
        raise
    except UnidentifiedImageError:
        raise VideoError("invalid_data", f"{path.name} is no image that Pillow knows") from None
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise VideoError("invalid_data", f"{path.name}: {said}") from None


def _check(deadline: Deadline) -> None:
    try:
        deadline.check()
    except TimeoutError:
        raise VideoError("timeout", f"no end after {deadline.limit:g} s") from None


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD_SIZE)


def _is_webp(head: bytes) -> bool:
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def _natural(name: str) -> list[tuple[bool, int, str]]:
    parts = re.findall(r"\d+|\D+", name)
    return [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]
