"""GIF, animated WebP and folders of images; which paths are videos; writing."""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import CancelledError

import numpy as np
import pytest
from PIL import Image, ImageFile, features
from video_files import chosen, coded, everything, numbers, spread

from ttvr import frames, video
from ttvr.errors import TtvrError, VideoError
from ttvr.video import _images


def pictures(count, **size):
    return [Image.fromarray(frame) for frame in coded(range(count), **size)]


def animation(path, durations):
    first, *rest = pictures(len(durations))
    options = {"lossless": True} if path.suffix == ".webp" else {}
    first.save(path, save_all=True, append_images=rest, duration=durations, loop=0, **options)
    return path


def folder_of(path, names):
    path.mkdir()
    for name, picture in zip(names, pictures(len(names)), strict=True):
        picture.save(path / name)
    return path


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_animations_keep_their_times(tmp_path, suffix):
    path = animation(tmp_path / f"a{suffix}", [100, 300, 100, 500])
    picks, times, result = chosen(path, everything)
    assert picks == [0, 1, 2, 3]
    assert times == [0.0, 0.1, 0.4, 0.5]
    assert result.status == video.Status("ok", 1.0, 1.0, 0)
    assert result.info == video.probe(path)
    assert (result.info.frames, result.info.duration, result.info.fps) == (4, 1.0, 4.0)
    assert chosen(path, everything, fps=5)[0] == [0, 1, 2, 3]
    assert chosen(path, everything, fps=2)[0] == [0, 3]
    assert chosen(path, everything, start=0.35, end=0.45)[0] == [2]


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_a_still_is_a_video_of_one_frame(tmp_path, suffix):
    pictures(1)[0].save(tmp_path / f"a{suffix}")
    result = video.read_frames(tmp_path / f"a{suffix}", everything)
    assert result.times.tolist() == [0.0]


def test_animations_are_known_by_their_content(tmp_path):
    path = animation(tmp_path / "a.gif", [100, 100])
    path.rename(tmp_path / "a.mp4")
    assert chosen(tmp_path / "a.mp4", everything)[0] == [0, 1]


def test_folder_in_natural_order_without_hidden_files(tmp_path):
    names = [f"frame{i}.png" for i in range(12)]
    folder = folder_of(tmp_path / "images", names)
    for name in (".hidden.png", "._frame3.png", "notes.txt"):
        (folder / name).write_bytes(b"no image")
    picks, times, result = chosen(folder, everything)
    assert picks == list(range(12))
    assert times == [float(i) for i in range(12)]  # a second each
    assert (result.info.frames, result.info.fps, result.info.duration) == (12, 1.0, 12.0)
    assert chosen(folder, spread(3), fps=0.5)[0] == [2, 6, 10]


def test_size_is_pillow_and_center_crop(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (61, 93, 3), np.uint8)
    Image.fromarray(noise).save(folder / "1.png")
    result = video.read_frames(folder, everything, size=32)
    image = Image.fromarray(noise).resize((int(32 * 93 / 61), 32), Image.BICUBIC)
    left = round((image.width - 32) / 2)
    assert np.array_equal(result.pixels[0], np.asarray(image.crop((left, 0, left + 32, 32))))


def test_images_are_upright_and_of_one_size(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    upright, other = pictures(2)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(folder / "1.jpg", exif=exif, quality=95)
    other.resize((400, 100)).save(folder / "2.jpg", quality=95)
    result = video.read_frames(folder, everything)
    assert result.pixels.shape == (2, 48, 192, 3)
    assert numbers(result.pixels) == [0, 1]


def test_damaged_images_are_named(tmp_path):
    folder = folder_of(tmp_path / "images", ["1.png", "2.png", "3.png"])
    data = (folder / "2.png").read_bytes()
    (folder / "2.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(VideoError, match=r"invalid_data: 2\.png"):
        video.read_frames(folder, everything)
    assert chosen(folder, lambda n: [0, 2])[0] == [0, 2]
    (folder / "1.png").write_bytes(b"text")
    with pytest.raises(VideoError, match=r"invalid_data: 1\.png"):
        video.probe(folder)


def test_a_cut_animation_is_partial(tmp_path):
    """What lies before the cut is read; how long it was meant to be nobody knows."""
    path = animation(tmp_path / "a.gif", [100] * 20)
    data = path.read_bytes()
    for part in (0.3, 0.7, 0.9):
        path.write_bytes(data[: int(len(data) * part)])
        picks, times, result = chosen(path, everything)
        assert picks == list(range(len(picks)))
        assert 20 * part - 3 < len(picks) < 20 * part + 1
        assert times == pytest.approx([i / 10 for i in picks])
        assert result.status[:2] == ("partial", None)
        assert result.status.decoded_s == pytest.approx(len(picks) / 10)
        assert result.status.decoder_errors == 1
        assert result.info == video.probe(path)
        assert result.info[2:5] == (pytest.approx(10.0), None, None)
    path.write_bytes(data[: int(len(data) * 0.02)])
    for read in (video.probe, lambda path: video.read_frames(path, everything)):
        with pytest.raises(VideoError, match="invalid_data"):
            read(path)


KINDS = ["gif", "webp", "tif", "jpg", "png", "jp2"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")  # Pillow warns of much that is damaged
def test_damaged_images_never_escape(tmp_path, kind):
    """Pillow raises IndexError, TypeError, MemoryError and more on damaged files."""
    if kind == "jp2" and not features.check("jpg_2000"):
        pytest.skip("this Pillow has no JPEG 2000")
    path = tmp_path / f"a.{kind}"
    animation(path, [100] * 3) if kind in ("gif", "webp") else pictures(1)[0].save(path)
    is_still = kind not in ("gif", "webp")
    data = path.read_bytes()
    generator = np.random.default_rng(0)
    for _ in range(150):
        broken = bytearray(data)
        for at in generator.integers(0, 120, 3):
            broken[at if kind != "tif" else -1 - at] = generator.choice([0, 1, 255, 16])
        path.write_bytes(broken)
        with contextlib.suppress(VideoError):
            result = video.read_frames(tmp_path if is_still else path, everything, size=16)
            assert result.pixels.shape[1:] == (16, 16, 3)


def test_whatever_pillow_raises_is_named(tmp_path, monkeypatch):
    folder = folder_of(tmp_path / "images", ["1.png"])
    for error in (MemoryError(), IndexError("a\nb"), TypeError("c"), RuntimeError("d")):

        def load(image, error=error):
            raise error

        monkeypatch.setattr(ImageFile.ImageFile, "load", load)
        with pytest.raises(VideoError, match=r"invalid_data: 1\.png: (MemoryError|a b|c|d)$"):
            video.read_frames(folder, everything)


def test_a_line_of_pixels_is_refused_before_it_is_scaled(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (60000, 1)).save(folder / "1.png")
    assert video.read_frames(folder, everything).pixels.shape == (1, 1, 60000, 3)
    with pytest.raises(VideoError, match="invalid_data: 60000 x 1 pixels are too narrow"):
        video.read_frames(folder, everything, size=224)


def test_images_are_scaled_and_cropped_as_frames_are():
    """The same numbers by `frames` for tensors and here for images."""
    generator = np.random.default_rng(0)
    for _ in range(20_000):
        width, height = (int(side) for side in generator.integers(1, 4000, 2))
        size = int(generator.choice([1, 7, 32, 224, 336]))
        tall, wide, top, left = frames._geometry(height, width, size)
        assert _images.geometry(width, height, size) == (wide, tall, left, top)


def test_calling_off_ends_the_reading_of_images(tmp_path):
    stop = threading.Event()
    stop.set()
    path = animation(tmp_path / "a.gif", [100] * 3)
    with pytest.raises(CancelledError):
        video.read_frames(path, everything, stop=stop)


def test_folders_without_images(tmp_path):
    (tmp_path / "notes.txt").touch()
    for read in (video.probe, lambda path: video.read_frames(path, everything)):
        with pytest.raises(VideoError, match="no_video_stream"):
            read(tmp_path)


def test_reading_images_minds_the_time(tmp_path):
    folder = folder_of(tmp_path / "images", ["1.png", "2.png"])
    with pytest.raises(VideoError, match="timeout"):
        video.read_frames(folder, everything, timeout=0.0)


def test_which_paths_are_videos(tmp_path):
    for name in ("a.mp4", "b.MKV", "c.gif", ".d.mp4", "._e.mp4", "f.txt", "g.png"):
        (tmp_path / name).touch()
    pictures(1)[0].save(tmp_path / "still.webp")
    animation(tmp_path / "moving.webp", [100, 100])
    found = {path.name for path in tmp_path.iterdir() if video.is_video(path)}
    assert found == {"a.mp4", "b.MKV", "c.gif", "moving.webp"}


def test_which_folders_are_videos(tmp_path):
    images = folder_of(tmp_path / "images", ["1.jpg", "2.jpg"])
    assert video.is_video(images)
    assert not video.is_video(tmp_path)
    pictures(1)[0].save(images / "3.webp")
    (images / ".DS_Store").touch()
    assert video.is_video(images)
    (images / "clip.mp4").touch()
    assert not video.is_video(images)
    (images / "clip.mp4").unlink()
    (images / "more").mkdir()
    assert not video.is_video(images)


def test_written_frames_come_back(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"something older")
    video.write(path, coded(range(10)), fps=30000 / 1001)
    picks, times, result = chosen(path, everything)
    assert picks == list(range(10))
    assert times == pytest.approx([i * 1001 / 30000 for i in range(10)], abs=1e-4)
    assert result.info.codec in ("h264", "mpeg4")
    assert [item.name for item in tmp_path.iterdir()] == ["a.mp4"]


def test_writing_fails_cleanly(tmp_path):
    images = coded(range(2))
    with pytest.raises(TtvrError, match="cannot write"):
        video.write(tmp_path / "absent" / "a.mp4", images, fps=25)
    for wrong in (images[:, :47], images.astype(np.float32), images[0], images[:0]):
        with pytest.raises(ValueError, match="must be"):
            video.write(tmp_path / "a.mp4", wrong, fps=25)
    assert list(tmp_path.iterdir()) == []
