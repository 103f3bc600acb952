"""A thin copy and one pass over everything give the same frames and times."""

from __future__ import annotations

import struct
import subprocess

import pytest
from video_files import chosen, coded, make, spread

from ttvr import video
from ttvr.video import _decode, _isobmff, _thin
from ttvr.video._choice import Choice
from ttvr.video._process import Deadline

NOISE = ["-f", "lavfi", "-i", "testsrc2=s=64x64:d=8:r=25,noise=alls=20", "-preset", "veryfast"]
PLANAR = ["-pix_fmt", "yuv420p"]
DECLINED = ("mpeg4", "x264_open")  # no entry points, or none that are exact
ENCODERS = {
    "x264": ("libx264", ["-g", "60", "-bf", "3"], ".mp4"),
    "x264_pyramid": ("libx264", ["-g", "50", "-bf", "5", "-b_strategy", "0", "-refs", "4"], ".mov"),
    "x264_open": ("libx264", ["-g", "40", "-x264-params", "open-gop=1:bframes=3"], ".mp4"),
    "x264_intra": ("libx264", ["-g", "1"], ".mp4"),
    "x264_interlaced": ("libx264", ["-g", "50", "-flags", "+ildct+ilme"], ".mp4"),
    "x265": (
        "libx265",
        ["-g", "60", "-x265-params", "log-level=none:pools=1:frame-threads=1"],
        ".mp4",
    ),
    "x265_open": (
        "libx265",
        ["-x265-params", "keyint=20:open-gop=1:log-level=none:pools=1:frame-threads=1"],
        ".mp4",
    ),
    "x265_layers": (
        "libx265",
        ["-x265-params", "keyint=60:temporal-layers=1:log-level=none:pools=1:frame-threads=1"],
        ".mp4",
    ),
    "vp9": ("libvpx-vp9", ["-g", "60", "-cpu-used", "8", "-b:v", "100k"], ".mp4"),
    "mpeg4": ("mpeg4", ["-g", "50", "-bf", "2"], ".mp4"),
    "negative_offsets": ("libx264", ["-g", "50", "-movflags", "negative_cts_offsets"], ".mp4"),
}


def both_ways(path, choose, **options):
    """The frames by a thin copy (None where it declines) and by one pass."""
    track = _isobmff.read(path)
    settings = {"fps": None, "start": 0.0, "end": None} | options
    deadline = Deadline.after(60)
    thin = _decode.thin_copy(path, track, Choice(choose, **settings), size=None, deadline=deadline)
    whole = _decode.one_pass(
        path,
        Choice(choose, **settings),
        track.times(),
        stream=str(track.stream),
        size=None,
        deadline=deadline,
    )
    return thin, whole


@pytest.mark.parametrize("name", ENCODERS)
def test_thin_copy_equals_one_pass(tmp_path, name):
    encoder, settings, suffix = ENCODERS[name]
    try:
        path = make(tmp_path / f"a{suffix}", *NOISE, "-c:v", encoder, *PLANAR, *settings)
    except subprocess.CalledProcessError:
        pytest.skip(f"this ffmpeg has no {encoder}")
    used = 0
    for choose, options in (
        (spread(12), {}),
        (lambda n: [n - 1], {}),
        (lambda n: [0, 1, 2, n // 2, n // 2 + 1], {}),
        (spread(4), {"fps": 3.0}),
        (spread(3), {"start": 4.0, "end": 7.0}),
    ):
        thin, whole = both_ways(path, choose, **options)
        if thin is not None:
            used += 1
            assert len(thin.images) == len(whole.images)
            assert all((a == b).all() for a, b in zip(thin.images, whole.images, strict=True))
            assert thin.times.tolist() == whole.times.tolist()
            assert thin.everything.tolist() == whole.everything.tolist()
    assert used >= 2 * (name not in DECLINED)


def test_thin_copy_leaves_most_samples_out(tmp_path):
    video.write(tmp_path / "long.mp4", coded(range(1000)), fps=25)
    track = _isobmff.read(tmp_path / "long.mp4")
    kept = _thin.select(tmp_path / "long.mp4", track, track.shown()[[10, 600]])
    assert len(kept) < 0.5 * 1000
    assert chosen(tmp_path / "long.mp4", lambda n: [10, 600])[0] == [10, 600]


def test_lies_in_the_tables_do_not_show_in_the_frames(tmp_path):
    """A sample marked as an entry point that is none: a thin copy would start with damage."""
    path = make(tmp_path / "lying.mp4", *NOISE, "-g", "80", "-sc_threshold", "0", "-c:v", "libx264")
    data = bytearray(path.read_bytes())
    at = data.index(b"stss") + 4
    assert struct.unpack_from(">III", data, at) == (0, 3, 1)
    true, _ = both_ways(path, lambda n: [130])
    struct.pack_into(">I", data, at + 12, 115)
    path.write_bytes(data)
    thin, whole = both_ways(path, lambda n: [130])
    assert thin is None
    assert (true.images[0] == whole.images[0]).all()


def test_header_that_promises_more_frames_than_decode(tmp_path):
    """Frames are chosen anew among what decodes; the missing ones are not made up."""
    video.write(tmp_path / "whole.mp4", coded(range(300)), fps=25)
    path = tmp_path / "holes.avi"
    make(path, "-i", str(tmp_path / "whole.mp4"), "-c:v", "mpeg4", "-g", "10", "-q:v", "2")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    picks, _, result = chosen(path, lambda n: [0, n // 2, n - 1])
    assert result.status.state == "partial"
    assert 150 < picks[-1] < 250
    assert picks[1] == (picks[-1] + 1) // 2
    assert result.status.expected_s == 12.0
    assert result.status.decoded_s < 0.9 * 12.0
