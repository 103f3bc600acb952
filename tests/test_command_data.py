"""`ttvr-data synth`: clips as files, whole or not at all, once."""

from __future__ import annotations

import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from ttvr import evaluate, extract, plugins, synthetic, video
from ttvr.commands import _options
from ttvr.commands import data as command

DATASET = plugins.load("datasets", "synthetic")


def run(capsys, *arguments):
    code = command.main(["synth", *map(str, arguments)])
    return code, *capsys.readouterr()


def stamps(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["mp4", "images"])
def test_files_show_the_clips(capsys, tmp_path, kind):
    out = tmp_path / "deep" / "synth"
    code, printed, _ = run(capsys, "-o", out, "--limit", 3, "-j", 2, "--format", kind)
    assert (code, printed) == (0, f"{out}\n")
    split = DATASET.load(None, "test", limit=3)
    found = extract.find_inputs([out])
    assert [item.clip.id for item in found.items] == [clip.id for clip in split.clips]
    for item in found.items:
        frames = video.read_frames(item.clip.path, range)
        drawn = DATASET.read(item.clip, range, size=synthetic.SIZE)
        assert frames.pixels.shape == drawn.shape == (36, 128, 128, 3)
        assert frames.status.state == "ok"
        difference = np.abs(frames.pixels.astype(int) - drawn).mean()
        if kind == "images":
            assert difference == 0
        else:
            # Quantization and 4:2:0 color: 1.6 at most in 40 clips, which are 6 and more apart.
            assert difference < 3
            assert frames.info.fps == pytest.approx(12)


def test_ground_truth_is_that_of_the_dataset(capsys, tmp_path):
    run(capsys, "-o", tmp_path, "--split", "twins", "--limit", 4, "--format", "images")
    split = DATASET.load(None, "twins", limit=4)
    pairs = evaluate.read_pairs(str(tmp_path / "gt.tsv"))
    assert pairs.captions == split.captions
    assert pairs.videos == tuple(clip.id for clip in split.clips)
    assert (tmp_path / "captions.txt").read_text().splitlines() == list(split.captions)


def test_running_again_keeps_what_is_there(capsys, tmp_path):
    arguments = ("-o", tmp_path, "--format", "images", "--json")
    _, printed, _ = run(capsys, *arguments, "--limit", 2)
    facts = json.loads(printed)
    assert (facts["clips"], facts["drawn"], facts["kept"]) == (2, 2, 0)
    before = stamps(tmp_path)
    _, printed, _ = run(capsys, *arguments, "--limit", 1)
    assert json.loads(printed)["drawn"] == 0
    assert stamps(tmp_path) == before
    _, printed, _ = run(capsys, *arguments, "--limit", 3)
    facts = json.loads(printed)
    assert (facts["drawn"], facts["kept"]) == (1, 2)
    assert len((tmp_path / "gt.tsv").read_text().splitlines()) == 3
    _, printed, _ = run(capsys, *arguments, "--limit", 3, "--overwrite")
    assert json.loads(printed)["drawn"] == 3
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_lists_are_of_all_clips_that_are_there(capsys, tmp_path):
    arguments = ("-o", tmp_path, "--format", "images")
    run(capsys, *arguments, "--limit", 3)
    lists = {name: (tmp_path / name).read_text() for name in ("gt.tsv", "captions.txt")}
    run(capsys, *arguments, "--limit", 2, "--overwrite")
    assert lists == {name: (tmp_path / name).read_text() for name in lists}
    for name, text in lists.items():
        (tmp_path / name).unlink()
        run(capsys, *arguments, "--limit", 3)
        assert (tmp_path / name).read_text() == text


@pytest.mark.parametrize("name", ["gt.tsv", "captions.txt"])
def test_lists_of_something_else_are_left_alone(capsys, tmp_path, name):
    (tmp_path / name).write_text("my own\n")
    for more in ((), ("--overwrite",)):
        arguments = ("-o", tmp_path, "--limit", 1, "--format", "images", *more)
        code, out, err = run(capsys, *arguments)
        assert (code, out) == (2, "")
        assert f"{name} is of other clips" in err
        assert [path.name for path in tmp_path.iterdir()] == [name]
        assert (tmp_path / name).read_text() == "my own\n"


def test_a_folder_holds_one_split_in_one_format(capsys, tmp_path):
    run(capsys, "-o", tmp_path, "--limit", 1, "--format", "images")
    before = stamps(tmp_path)
    code, _, err = run(capsys, "-o", tmp_path, "--limit", 2)
    assert code == 2
    assert "test-00000 is there in another --format" in err
    code, _, err = run(capsys, "-o", tmp_path, "--limit", 2, "--split", "val")
    assert code == 2
    assert "gt.tsv is of other clips" in err
    assert stamps(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--split", "rest"), "dataset synthetic has no split 'rest'; there are: train, val"),
        (("--limit", "0"), "'0' is not a whole number"),
    ],
)
def test_wrong_use(capsys, tmp_path, arguments, message):
    try:
        code, out, err = run(capsys, "-o", tmp_path / "new", *arguments)
    except SystemExit as end:
        code, (out, err) = end.code, capsys.readouterr()
    assert (code, out) == (2, "")
    assert message in err
    assert not (tmp_path / "new").exists()


def test_a_file_is_no_folder(capsys, tmp_path):
    (tmp_path / "file").write_text("mine")
    code, _, err = run(capsys, "-o", tmp_path / "file")
    assert code == 2
    assert "is a file" in err


def test_without_ffmpeg_images_are_offered(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("TTVR_FFMPEG", str(tmp_path / "none"))
    code, out, err = run(capsys, "-o", tmp_path / "new", "--limit", 1)
    assert (code, out) == (5, "")
    assert "--format images" in err
    assert not (tmp_path / "new").exists()
    assert run(capsys, "-o", tmp_path / "new", "--limit", 1, "--format", "images")[0] == 0


@pytest.mark.parametrize("kind", ["mp4", "images"])
def test_interruption_leaves_whole_clips_alone(capsys, tmp_path, monkeypatch, kind):
    """Images: in the middle of the third folder; mp4: when the third clip is to be drawn."""
    calls = []
    where, name, last = (synthetic, "render", 3) if kind == "mp4" else (Image.Image, "save", 80)
    plain = getattr(where, name)

    def stop_at_last(*arguments, **options):
        calls.append(arguments)
        if len(calls) == last:
            raise KeyboardInterrupt
        return plain(*arguments, **options)

    monkeypatch.setattr(where, name, stop_at_last)
    before = signal.getsignal(signal.SIGINT)
    arguments = ("-o", tmp_path, "--limit", 5, "-j", 1, "--format", kind)
    try:
        code, out, err = run(capsys, *arguments)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (code, out) == (130, "")
    assert "goes on from here" in err
    left = {path.name for path in tmp_path.iterdir()}
    suffix = command.FORMATS[kind]
    wanted = [f"{clip.id}{suffix}" for clip in DATASET.load(None, "test", limit=5).clips]
    assert left < set(wanted)
    for name in left:
        assert len(video.read_frames(tmp_path / name, range).pixels) == 36
    assert run(capsys, *arguments)[0] == 0
    assert {path.name for path in tmp_path.iterdir()} == {*wanted, "gt.tsv", "captions.txt"}


def test_interruption_begins_no_further_clip(monkeypatch):
    begun, ended = [], threading.Event()

    class Pool(ThreadPoolExecutor):
        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            ended.set()
            super().shutdown()

    def write(number):
        begun.append(number)
        if number == 1:
            ended.wait(10)

    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "ThreadPoolExecutor", Pool)
    with pytest.raises(KeyboardInterrupt):
        command._work(write, range(9), 1, on_step=interrupt)
    assert begun in ([0], [0, 1])


def test_jobs_are_as_many_as_processors_up_to_a_limit(monkeypatch):
    for usable, jobs in ((1, 1), (5, 5), (64, _options.MOST_JOBS)):
        monkeypatch.setattr(
            os, "sched_getaffinity", lambda of, n=usable: set(range(n)), raising=False
        )
        assert _options.default_jobs() == jobs


def test_a_clip_that_cannot_be_written_ends_the_work(capsys, tmp_path, monkeypatch):
    def fail(path, frames, *, fps):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(video, "write", fail)
    code, out, err = run(capsys, "-o", tmp_path, "--limit", 9)
    assert (code, out) == (1, "")
    assert "test-00000.mp4: No space left on device" in err
    assert list(tmp_path.iterdir()) == []


def test_images_that_cannot_be_written_are_named(capsys, tmp_path, monkeypatch):
    def fail(self, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    code, out, err = run(capsys, "-o", tmp_path, "--limit", 9, "--format", "images")
    assert (code, out) == (1, "")
    assert f"ttvr-data: {tmp_path}/test-00000: No space left on device\n" in err
    assert list(tmp_path.iterdir()) == []
