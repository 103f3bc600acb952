"""Decoding of files that the tests make: what frames come, and when."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image
from video_files import chosen, coded, everything, make, numbers, spread

from ttvr import video
from ttvr.errors import VideoError
from ttvr.video import _ffmpeg


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder with `plain.mp4`: 300 numbered frames at 25 per second."""
    folder = tmp_path_factory.mktemp("clips")
    video.write(folder / "plain.mp4", coded(range(300)), fps=25)
    return folder


@pytest.fixture
def plain(clips):
    return clips / "plain.mp4"


def test_chosen_frames_and_times(plain):
    picks, times, result = chosen(plain, lambda n: [0, 7, 7, n // 2, n - 1])
    assert picks == [0, 7, 150, 299]  # repeats come once
    assert times == [0.0, 0.28, 6.0, 11.96]
    assert result.pixels.dtype == np.uint8
    assert result.times.dtype == np.float32
    assert result.status == video.Status("ok", 12.0, 12.0, 0)
    assert result.info == video.VideoInfo(192, 48, 25.0, 12.0, 300, "h264", 0, 0.0)


def test_probe_says_what_reading_finds(plain):
    assert video.probe(plain) == video.read_frames(plain, lambda n: [0]).info


def test_every_frame(plain):
    picks, times, _ = chosen(plain, everything)
    assert picks == list(range(300))
    assert times == [round(i / 25, 4) for i in range(300)]


def test_candidates_by_rate_are_the_frames_shown(plain):
    picks, times, _ = chosen(plain, everything, fps=3)
    shown = [int(i / 3 * 25 + 1e-9) for i in range(36)]
    assert picks == shown
    assert times == [round(i / 25, 4) for i in shown]


def test_rate_above_the_videos_gives_no_frame_twice(plain):
    assert chosen(plain, everything, fps=100)[0] == list(range(300))


def test_start_and_end_clip(plain):
    assert chosen(plain, everything, start=2.0, end=3.0)[0] == list(range(50, 75))
    assert chosen(plain, everything, fps=2, start=2.0, end=4.0)[0] == [50, 62, 75, 87]
    assert chosen(plain, everything, start=11.5)[0] == list(range(288, 300))
    assert chosen(plain, everything, start=2.01, end=2.02)[0] == [50]  # within one frame


def test_start_after_the_end_is_short(plain):
    for options in ({}, {"fps": 2.0}):
        with pytest.raises(VideoError, match="short"):
            video.read_frames(plain, everything, start=12.5, **options)


def test_senseless_requests_are_slips(plain):
    for options in ({"start": -1.0}, {"start": 2.0, "end": 1.0}, {"fps": 0.0}):
        with pytest.raises(ValueError, match="no frames between"):
            video.read_frames(plain, everything, **options)
    with pytest.raises(ValueError, match="not all within"):
        video.read_frames(plain, lambda n: [n])


def test_a_random_choice_is_asked_once_for_each_length(clips):
    asked = []
    make(clips / "counted.mkv", "-i", str(clips / "plain.mp4"), "-c", "copy")
    video.read_frames(clips / "counted.mkv", lambda n: asked.append(n) or [n - 1])
    assert asked == [300]


def test_square_scaling_is_close_to_pillow(clips):
    path = make(clips / "test.mp4", "-f", "lavfi", "-i", "testsrc2=s=322x242:d=1", "-c:v", "mpeg4")
    small = video.read_frames(path, spread(3), size=64)
    full = video.read_frames(path, spread(3))
    assert small.pixels.shape == (3, 64, 64, 3)
    assert full.pixels.shape == (3, 242, 322, 3)
    wide = int(64 * 322 / 242)
    left = round((wide - 64) / 2)
    for scaled, frame in zip(small.pixels, full.pixels, strict=True):
        image = Image.fromarray(frame).resize((wide, 64), Image.BICUBIC)
        oracle = np.asarray(image.crop((left, 0, left + 64, 64)))
        assert np.abs(scaled.astype(int) - oracle).mean() <= 1.5


@pytest.mark.parametrize(("wide", "tall"), [(225, 224), (227, 224), (224, 229), (231, 224), (9, 7)])
def test_crop_starts_where_torchvision_starts(clips, wide, tall):
    """A white pixel line at the left and top edge of the crop, and nothing outside it."""
    size = min(wide, tall)
    left, top = round((wide - size) / 2), round((tall - size) / 2)
    frame = np.zeros((tall, wide, 3), np.uint8)
    frame[top : top + size, left : left + size] = 255
    raw = clips / "edge.raw"
    raw.write_bytes(frame.tobytes())
    path = make(
        clips / "edge.nut",
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{wide}x{tall}", "-i", str(raw)),
        *("-c:v", "rawvideo"),
    )
    assert (video.read_frames(path, everything, size=size).pixels == 255).all()


def test_odd_sizes_and_a_single_frame(clips):
    path = make(
        clips / "odd.mkv",
        *(
            "-f",
            "lavfi",
            "-i",
            "testsrc=s=35x21:r=5,drawbox=c=red:t=fill",
            "-frames:v",
            "1",
            "-c:v",
            "mpeg4",
        ),
    )
    result = video.read_frames(path, everything)
    assert result.pixels.shape == (1, 21, 35, 3)
    assert result.pixels[0, 10, 17, 0] > 200
    assert result.status.state == "ok"
    assert video.read_frames(path, everything, fps=1.0).times.tolist() == [0.0]


def test_variable_frame_rate_keeps_real_timestamps(clips):
    path = make(
        clips / "vfr.mp4",
        *("-i", str(clips / "plain.mp4"), "-vf", "select='not(mod(n,5))+between(n,100,130)'"),
        *_ffmpeg_sync(),
    )
    kept = [n for n in range(300) if n % 5 == 0 or 100 <= n <= 130]
    picks, times, _ = chosen(path, everything)
    assert picks == kept
    assert times == pytest.approx([n / 25 for n in kept], abs=1e-3)
    by_rate, _, _ = chosen(path, everything, fps=2)
    shown = [max(n for n in kept if n <= i * 12.5 + 1e-6) for i in range(24)]
    assert by_rate == shown


def _ffmpeg_sync():
    return [part for key, value in _ffmpeg.passthrough().items() for part in (f"-{key}", value)]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_late_first_timestamp(clips, suffix):
    path = make(
        clips / f"late{suffix}",
        "-i",
        str(clips / "plain.mp4"),
        "-output_ts_offset",
        "7",
        "-c",
        "copy",
    )
    picks, times, result = chosen(path, lambda n: [0, 150, n - 1])
    assert picks == [0, 150, 299]
    assert times == pytest.approx([0.0, 6.0, 11.96], abs=2e-3)
    assert result.status.state == "ok"
    assert result.info.start >= 6.9 or suffix == ".mp4"


def rotated(path, turn):
    """Set the display matrix of an MP4 to a clockwise turn."""
    a, b = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[turn]
    matrix = struct.pack(">9i", a << 16, b << 16, 0, -b << 16, a << 16, 0, 0, 0, 1 << 30)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = matrix
    target = path.with_name(f"turned{turn}.mp4")
    target.write_bytes(data)
    return target


@pytest.mark.parametrize("turn", [90, 180, 270])
def test_rotation_is_applied(plain, turn):
    path = rotated(plain, turn)
    for choose in (lambda n: [0, 5], everything):  # few frames, and all of them
        result = video.read_frames(path, choose)
        upright = np.rot90(result.pixels, turn // 90, axes=(1, 2))
        assert numbers(upright)[:2] == [0, choose(300)[1]]
        assert result.info.rotation == turn
        assert (result.info.width, result.info.height) == result.pixels.shape[2:0:-1]
    assert video.probe(path).rotation == turn


def test_first_video_stream_and_no_cover_art(clips, plain):
    cover = clips / "cover.png"
    Image.new("RGB", (64, 64), "red").save(cover)
    path = make(
        clips / "cover.mp4",
        *("-i", str(cover), "-i", str(plain), "-map", "0", "-map", "1", "-c:v:1", "copy"),
        *("-c:v:0", "copy", "-disposition:v:0", "attached_pic"),
    )
    assert chosen(path, lambda n: [3])[0] == [3]


def test_frame_size_that_changes_midway(clips):
    parts = [
        make(
            clips / f"{size}.ts",
            "-f",
            "lavfi",
            "-i",
            f"testsrc=s={size}:d=1:r=10",
            "-c:v",
            "mpeg2video",
        )
        for size in ("128x96", "64x96")
    ]
    path = clips / "changing.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    result = video.read_frames(path, everything, size=32)
    assert result.pixels.shape == (len(result.times), 32, 32, 3)
    assert len(result.times) >= 18
    assert video.read_frames(path, lambda n: [0, n - 1]).pixels.shape == (2, 96, 128, 3)
