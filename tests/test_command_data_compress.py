"""`ttvr-data compress`: copies that show the frames of 3 per second, upright, once, whole."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import toy_datasets
from test_extract import draw
from video_files import coded, everything, make, numbers

from ttvr import video
from ttvr.commands import _data_compress
from ttvr.commands.data import main


@pytest.fixture
def compress(capsys):
    def run(*arguments):
        try:
            code = main(["compress", *map(str, arguments)])
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


def stamps(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def clips(tmp_path):
    draw(tmp_path / "clips" / "a.mp4", seed=1)
    draw(tmp_path / "clips" / "deep" / "b.mp4", seed=2, size=(64, 48))
    return tmp_path / "clips"


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_frames_are_those_shown_at_each_third_of_a_second(compress, tmp_path, suffix):
    source, out = tmp_path / f"in/a{suffix}", tmp_path / "out"
    source.parent.mkdir()
    video.write(tmp_path / "a.mp4", coded(range(50)), fps=25)
    late = ("-output_ts_offset", "5") if suffix == ".mkv" else ()
    make(source, "-i", str(tmp_path / "a.mp4"), *late, "-b:v", "4M")
    code, printed, err = compress(source.parent, "-o", out, "--size", 48)
    assert (code, printed) == (0, f"{out}\n"), err
    expected = video.read_frames(source, everything, fps=3)
    copy = video.read_frames(out / video.compressed_name(source.name), everything)
    assert numbers(copy.pixels) == numbers(expected.pixels) == [0, 8, 16, 25, 33, 41]
    # Matroska counts milliseconds.
    np.testing.assert_allclose(copy.times, np.arange(6) / 3, atol=1e-3)
    assert copy.pixels.shape[1:] == (48, 192, 3)
    assert files(out) == sorted(
        [_data_compress.JOURNAL, f"a{'.mp4' if suffix == '.ts' else suffix}"]
    )


def test_running_again_makes_what_is_not_there(compress, clips, tmp_path):
    out = tmp_path / "out"
    arguments = (clips, "-o", out, "--size", 32, "--json", "-j", 1)
    code, printed, _ = compress(*arguments)
    facts = json.loads(printed)
    assert (code, facts["done"], facts["skipped"], facts["failed"]) == (0, 2, 0, {})
    sizes = [(clips / name).stat().st_size for name in ("a.mp4", "deep/b.mp4")]
    assert facts["bytes_before"] == sum(sizes)
    copies = [out / "a.mp4", out / "deep" / "b.mp4"]
    assert facts["bytes_after"] == sum(path.stat().st_size for path in copies)
    assert [video.probe(path)[:3] for path in copies] == [(42, 32, 3.0), (32, 42, 3.0)]
    before = stamps(out)
    code, printed, _ = compress(*arguments)
    assert (code, json.loads(printed)["skipped"], stamps(out)) == (0, 2, before)
    with (out / _data_compress.JOURNAL).open("a") as file:
        file.write('{"name": "a.mp')  # killed while it wrote
    copies[1].write_bytes(b"torn")
    draw(clips / "a.mp4", seed=7, count=16)
    code, printed, _ = compress(*arguments)
    assert (code, json.loads(printed)["done"]) == (0, 2)
    assert [video.probe(path).frames for path in copies] == [6, 3]
    assert json.loads(compress(*arguments)[1])["done"] == 0
    code, printed, _ = compress(*arguments, "--fps", 2)
    assert (code, json.loads(printed)["done"]) == (0, 2)
    assert [video.probe(path).frames for path in copies] == [4, 2]
    assert json.loads(compress(*arguments, "--fps", 2, "--overwrite")[1])["done"] == 2


def test_a_copy_counts_once_its_line_is_on_the_disk(compress, clips, tmp_path, monkeypatch):
    synced = []

    def sync(descriptor):
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())

    def copy(source, target, **how):
        target.write_bytes(b"copy")
        return video.Status("ok", None, None, 0)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(video, "compress", copy)
    assert compress(clips, "-o", tmp_path / "out", "-j", 1)[0] == 0
    assert synced == [tmp_path / "out" / _data_compress.JOURNAL] * 2


def test_what_fails_has_no_copy(compress, clips, tmp_path):
    out = tmp_path / "out"
    assert compress(clips, "-o", out, "--size", 32)[0] == 0
    draw(clips / "cut.mp4", seed=3, count=40)
    make(clips / "cut.mkv", "-i", str(clips / "cut.mp4"), "-g", "4")
    (clips / "cut.mp4").unlink()
    whole = (clips / "cut.mkv").read_bytes()
    (clips / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    (clips / "a.mp4").write_bytes(b"")  # was whole before
    (clips / "text.mp4").write_text("#EXTM3U\n")
    (clips / "pictures").mkdir()
    shutil.copy(next(iter(_pictures(tmp_path))), clips / "pictures")
    code, printed, err = compress(clips, "-o", out, "--size", 32, "--json")
    facts = json.loads(printed)
    assert code == 3
    assert set(facts["failed"]) == {str(clips / x) for x in ("a.mp4", "text.mp4", "pictures")}
    assert facts["partial"] == [str(clips / "cut.mkv")]
    assert f"{clips / 'a.mp4'}: failed: empty: the file has 0 bytes\n" in err
    assert f"{clips / 'cut.mkv'}: partial: decodes for " in err
    assert "images are not re-encoded" in err
    assert files(out) == [_data_compress.JOURNAL, "cut.mkv", "deep/b.mp4"]
    code, _, err = compress(clips / "cut.mkv", "-o", out, "--size", 32)
    assert (code, "cut.mkv: partial" in err) == (3, True)  # kept, and said again
    assert compress(clips / "text.mp4", "-o", tmp_path / "none")[0] == 1


def _pictures(folder):
    yield make(folder / "one.png", "-f", "lavfi", "-i", "testsrc=s=32x32", "-frames:v", "1")


def test_real_clips(compress, shared, tmp_path):
    names = ("decord_video_270.mov", "media3_ts_sample_h262_mpeg_audio.ps", "mmaction_part_0.mp4")
    out = tmp_path / "out"
    code, _, err = compress(*(shared / "videos" / name for name in names), "-o", out, "-j", 2)
    assert code == 0, err
    turned = video.read_frames(out / names[0], everything)
    before = video.read_frames(shared / "videos" / names[0], lambda n: [0])
    assert turned.info.rotation == 0
    assert turned.pixels.shape == (1, 396, 224, 3)
    small = before.pixels[0, ::2, ::2].mean()
    assert turned.pixels[0].mean() == pytest.approx(small, abs=4)
    assert video.probe(out / "media3_ts_sample_h262_mpeg_audio.mp4").codec == "h264"
    assert video.probe(out / names[2])[:2] == (296, 224)


def test_videos_of_a_dataset(compress, clips, tmp_path):
    toy_datasets.put(clips / "captions.tsv", "a\tone\ndeep/b\ttwo\ngone\tthree\n")
    out = tmp_path / "out"
    code, _, err = compress("--data", "folder", "--root", clips, "-o", out)  # of all splits
    assert code == 3
    assert "gone: missing: no such video\n" in err
    assert files(out) == ["a.mp4", _data_compress.JOURNAL, "deep/b.mp4"]
    assert compress("--data", "synthetic", "-o", out)[0] == 2


def test_places_that_would_lose_something_are_refused(compress, clips, tmp_path):
    for out, match in (
        (clips, "lies within"),
        (clips / "small", "lies within"),
        (tmp_path, "holds files that are no copies"),
    ):
        code, _, err = compress(clips, "-o", out)
        assert (code, match in err) == (2, True), err
    assert compress(clips / "a.mp4", "-o", clips)[0] == 2
    for wrong in (("--size", 33), ("--fps", 0), ("--root", clips), ("--data", "msvd")):
        assert compress(clips, "-o", tmp_path / "x", *wrong)[0] == 2
    assert compress("-o", tmp_path / "x")[0] == 2
    assert files(clips) == ["a.mp4", "deep/b.mp4"]
    assert not (tmp_path / "x").exists()


def test_an_interruption_leaves_no_partial_file(compress, tmp_path, monkeypatch):
    source, out = tmp_path / "in" / "long.mp4", tmp_path / "out"
    source.parent.mkdir()
    make(source, "-f", "lavfi", "-i", "testsrc=s=640x360:d=50:r=30", "-preset", "ultrafast")
    begun, real = threading.Event(), video.compress

    def compress_and_tell(*arguments, **options):
        begun.set()
        return real(*arguments, **options)

    def interrupt(*arguments, **options):
        begun.wait(10)
        time.sleep(0.3)  # the encoder has begun to write
        raise KeyboardInterrupt

    monkeypatch.setattr(video, "compress", compress_and_tell)
    monkeypatch.setattr("ttvr.commands._pool.wait", interrupt)
    before = time.monotonic()
    code, _, err = compress(source, "-o", out)
    assert code == 130
    assert "interrupted; the same command run again goes on from here" in err
    assert time.monotonic() - before < 5
    assert files(out) == [_data_compress.JOURNAL]


def test_a_frame_size_that_changes_midway(compress, tmp_path):
    parts = [
        make(
            *(tmp_path / f"{size}.ts", "-f", "lavfi", "-i", f"testsrc=s={size}:d=1:r=10"),
            *("-c:v", "mpeg2video", "-output_ts_offset", str(second)),
        )
        for second, size in enumerate(("128x96", "64x96"))
    ]
    source = tmp_path / "in" / "a.ts"
    source.parent.mkdir()
    source.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert compress(source, "-o", tmp_path / "out", "--size", 96)[0] == 0
    expected = video.read_frames(source, everything, fps=3)
    copy = video.read_frames(tmp_path / "out" / "a.mp4", everything)
    assert copy.pixels.shape == expected.pixels.shape == (6, 96, 128, 3)
    # Quantization and 4:2:0 color: 1.3; the frame before is 15.7 away.
    assert np.abs(copy.pixels.astype(int) - expected.pixels).mean() < 3
