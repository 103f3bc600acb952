"""Sampling rules against loops and goldens; preprocessing against Pillow."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from ttvr import frames

SIZES = [(240, 320), (720, 1280), (33, 47), (121, 161), (224, 224), (1, 1), (500, 21), (225, 400)]
ONE_LEVEL = 1 / 255 / min(frames.STD)


def picture(height, width, T=2):
    """Noise, edges and a gradient: what shows every weight of a filter."""
    generator = np.random.default_rng(height * 10_000 + width)
    noise = generator.integers(0, 256, (T, height, width, 3))
    noise[:, : height // 2] = 255 * (noise[:, : height // 2] > 200)
    noise[:, :, : width // 3] = np.linspace(0, 255, height)[None, :, None, None]
    return noise.astype(np.uint8)


def clip_oracle(frame, size):
    """Pillow and torchvision's rounding, a frame at a time."""
    image = Image.fromarray(frame)
    width, height = image.size
    short, long = min(width, height), max(width, height)
    other = int(size * long / short)
    image = image.resize((size, other) if width <= height else (other, size), Image.BICUBIC)
    top = int(round((image.height - size) / 2.0))  # noqa: RUF046
    left = int(round((image.width - size) / 2.0))  # noqa: RUF046
    pixels = np.asarray(image.crop((left, top, left + size, top + size))) / 255.0
    return ((pixels - np.array(frames.MEAN)) / np.array(frames.STD)).transpose(2, 0, 1)


@pytest.mark.parametrize("length", [1, 3, 12, 60])
def test_segment_rule_is_the_loop(length):
    for n in range(1, 300):
        expected = []
        for i in range(length):
            if n > length:
                expected.append(int(np.float64(n) / length / 2 + np.float64(n) / length * i))
            else:
                expected.append(min(i, n - 1))
        assert frames.uniform_indices(n, length) == expected


def test_linspace_rule_is_the_loop():
    for n in range(1, 300):
        chosen = frames.linspace_indices(n, 12)
        if n <= 12:
            assert chosen == list(range(n))
        else:
            assert chosen == [int(i) for i in np.linspace(0, n - 1, 12)]
            assert chosen[0] == 0
            assert chosen[-1] == n - 1


def test_every_rule_gives_ascending_valid_indices():
    generator = np.random.default_rng(0)
    for n in range(1, 200):
        for length in (1, 2, 12):
            for chosen in (
                frames.SAMPLERS["segment"](n, length),
                frames.SAMPLERS["linspace"](n, length),
                frames.random_indices(n, length, generator=generator),
            ):
                assert chosen == sorted(chosen)
                assert 0 <= chosen[0] <= chosen[-1] < n
                assert len(chosen) <= length


def test_random_rule_repeats_with_its_generator_and_reaches_all():
    first = frames.random_indices(100, 12, generator=np.random.default_rng(3))
    assert first == frames.random_indices(100, 12, generator=np.random.default_rng(3))
    generator = np.random.default_rng(0)
    seen = {i for _ in range(400) for i in frames.random_indices(23, 4, generator=generator)}
    assert seen == set(range(20))  # as published: frames from length * (n // length) on, never


def test_no_frames_to_choose_from_is_a_slip():
    with pytest.raises(ValueError, match="0 frames"):
        frames.uniform_indices(0, 12)


@pytest.mark.parametrize("length", [12, 60])
def test_sampling_goldens(shared, length):
    golden = np.load(shared / "golden" / "centerclip" / "frame_sampling.npz", allow_pickle=False)
    wanted = golden[f"eval_L{length}"]
    low, high = golden[f"train_lo_L{length}"], golden[f"train_hi_L{length}"]
    generator = np.random.default_rng(1)
    for n in range(1, len(wanted) + 1):
        assert frames.uniform_indices(n, length) == wanted[n - 1].tolist()
        drawn = np.array([frames.random_indices(n, length, generator=generator) for _ in range(20)])
        assert (drawn >= low[n - 1]).all()
        assert (drawn <= high[n - 1]).all()


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("size", [32, 224])
def test_preprocess_is_pillow_and_center_crop(height, width, size):
    video = picture(height, width)
    result = frames.preprocess(video, size)
    assert result.shape == (2, 3, size, size)
    assert result.dtype == torch.float32
    expected = np.stack([clip_oracle(frame, size) for frame in video])
    assert np.abs(result.numpy() - expected).max() < ONE_LEVEL / 100  # the same level everywhere


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("size", [32, 224])
def test_resize_on_device_gives_pillows_levels(height, width, size):
    video = picture(height, width)
    result = frames.resize_on_device(torch.from_numpy(video), size)
    assert torch.equal(result, frames.preprocess(video, size))


def test_preprocess_of_a_line_of_pixels_makes_only_the_crop():
    """60000 x 1 would be scaled to 9 GB; its middle is that of the middle alone."""
    line = picture(1, 60000, T=1)
    tracemalloc.start()
    result = frames.preprocess(line, 224)
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()
    # Scaled by 224, the crop is a pixel wide, and the filter reaches two to each side of it.
    assert torch.equal(result, frames.preprocess(line[:, :, 29_990:30_010], 224))


@pytest.mark.cuda
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_resize_on_a_gpu(height, width):
    video = picture(height, width)
    result = frames.resize_on_device(torch.from_numpy(video).cuda(), 224)
    assert result.is_cuda
    assert (result.cpu() - frames.preprocess(video, 224)).abs().max() < 2e-3


def test_normalize_keeps_leading_dimensions():
    pixels = torch.arange(2 * 3 * 4 * 5 * 3, dtype=torch.int64).remainder(256).to(torch.uint8)
    pixels = pixels.view(2, 3, 4, 5, 3)
    result = frames.normalize(pixels)
    assert result.shape == (2, 3, 3, 4, 5)
    expected = (pixels[1, 2, 3, 4, 1].item() / 255 - frames.MEAN[1]) / frames.STD[1]
    assert result[1, 2, 1, 3, 4].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("shape", [(2, 4, 4, 3), (1, 2, 4, 4, 3)], ids=["frames", "videos"])
def test_normalize_leaves_what_it_is_given(shape):
    pixels = torch.arange(96, dtype=torch.float32).view(shape)
    result = frames.normalize(pixels)
    assert torch.equal(pixels, torch.arange(96, dtype=torch.float32).view(shape))
    assert torch.equal(result, frames.normalize(pixels.to(torch.uint8)))
    assert result.is_contiguous()


def test_normalize_rounds_as_the_formula_does():
    """Folders of features are compared by the bytes that come of it."""
    pixels = torch.arange(256, dtype=torch.uint8).view(2, 2, 64, 1).expand(2, 2, 64, 3)
    mean, std = torch.tensor(frames.MEAN), torch.tensor(frames.STD)
    expected = ((pixels / 255 - mean) / std).movedim(-1, -3)
    result = frames.normalize(pixels)
    assert torch.equal(result, expected)
    assert result.is_contiguous()
    mask = torch.tensor([True, False])
    assert torch.equal(frames.normalize(pixels, mask)[0], expected[0])
    assert not frames.normalize(pixels, mask)[1].any()
