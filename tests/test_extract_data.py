"""Features of a dataset's split: clips without files, parts of files, and captions."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
import torch
from test_extract import content, draw
from tiny import tiny_state

from ttvr import evaluate, extract, plugins, synthetic, video
from ttvr.commands.eval import main as evaluate_main
from ttvr.commands.extract import main
from ttvr.datasets._base import Dataset
from ttvr.errors import TtvrError
from ttvr.extract import _decode as decoding
from ttvr.extract import dataset_inputs
from ttvr.records import Clip, Split
from ttvr.store import Features

N = 5
CLIPS = ("--data", "synthetic", "--split", "twins", "--limit", N, "--frames", 4)
CAPTIONS = ("--text", "--data", "synthetic", "--split", "twins", "--limit", N)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(tiny_state(vocabulary=49408), path)
    return path


@pytest.fixture
def call(weights, capsys):
    def run(*arguments):
        code = main([*map(str, arguments), "-w", str(weights), "--activation", "quick_gelu"])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def split():
    return plugins.load("datasets", "synthetic").load(None, "twins", limit=N)


def test_clips_that_are_drawn(call, split, tmp_path, monkeypatch):
    monkeypatch.setenv("TTVR_FFMPEG", str(tmp_path / "nowhere"))  # nothing is decoded
    feats = tmp_path / "feats"
    assert call(*CLIPS, "-o", feats)[:2] == (0, f"{feats}\n")
    found = Features.open(feats)
    assert found.ids == [clip.id for clip in split.clips]
    assert found.meta["data"] == {"dataset": "synthetic", "split": "twins"}
    assert found.meta["preprocess"]["resize"] == "none (drawn)"
    assert found.meta["provenance"]["ffmpeg"] is None
    assert found.items[0]["file"] == f"data:synthetic/twins/{found.ids[0]}"
    assert found.mask[:].all()
    # The frames in the middle of four equal parts of three seconds.
    np.testing.assert_allclose(found.times[0], np.array([4, 13, 22, 31]) / synthetic.FPS, atol=0.1)
    reversed_frames = found.frames[0][::-1].astype("f4")
    np.testing.assert_allclose(found.frames[1].astype("f4"), reversed_frames, atol=1e-3)


def test_a_split_goes_on_where_it_stopped(call, tmp_path, monkeypatch):
    """Drawn or decoded, interrupted or not, whatever the decoders: the same bytes."""
    whole, feats = tmp_path / "whole", tmp_path / "feats"
    assert call(*CLIPS, "-o", whole)[0] == 0
    real, drawn = decoding.decode, []

    def decode(clip, how, stop):
        if len(drawn) == 3:
            raise KeyboardInterrupt
        drawn.append(clip.id)
        return real(clip, how, stop)

    with monkeypatch.context() as patch:
        patch.setattr(decoding, "decode", decode)
        assert call(*CLIPS, "-o", feats)[0] == 130
    assert call(*CLIPS, "-o", feats, "-j", 3)[0] == 0
    assert content(feats) == content(whole)
    before = content(feats)
    code, out, _ = call(*CLIPS[:-3], 2, *CLIPS[-2:], "-o", feats, "--dry-run")
    assert code == 0
    actions = [line.split("\t")[:2] for line in out.splitlines()]
    ids = Features.open(feats).ids
    assert actions == [
        [what, one] for what, one in zip(["keep"] * 2 + ["drop"] * 3, ids, strict=True)
    ]
    assert content(feats) == before


def test_another_split_is_refused(call, tmp_path):
    feats, texts, videos = tmp_path / "feats", tmp_path / "texts", tmp_path / "videos"
    assert call(*CLIPS, "-o", feats)[0] == 0
    assert call(*CAPTIONS, "-o", texts)[0] == 0
    draw(videos / "a.mp4", seed=1)
    before = content(feats), content(texts)
    (tmp_path / "captions").write_text("a dog\n")
    for arguments, out, message in (
        (("--data", "synthetic", "--split", "val", "--frames", 4), feats, "split is 'twins', now"),
        ((videos, "--frames", 4), feats, "'split': 'twins'}, now None"),
        (("--text", "--data", "synthetic", "--split", "val"), texts, "split is 'twins', now"),
        (("--text", tmp_path / "captions"), texts, "'split': 'twins'}, now None"),
    ):
        code, _, err = call(*arguments, "-o", out)
        assert (code, err.count("\n")) == (4, 1)
        assert message in err
    assert (content(feats), content(texts)) == before
    assert call(videos, "-o", tmp_path / "own")[0] == 0
    code, _, err = call(*CLIPS[:-2], "-o", tmp_path / "own")
    assert code == 4
    assert "data is None, now {'dataset': 'synthetic', 'split': 'twins'}" in err


def test_captions_know_their_clips(call, split, tmp_path, capsys):
    feats, texts = tmp_path / "feats", tmp_path / "texts"
    assert call(*CLIPS, "-o", feats)[0] == 0
    out = call(*CAPTIONS, "-o", texts, "--json")[1]
    assert json.loads(out) == {"out": str(texts), "count": N, "truncated": 0}
    found = Features.open(texts)
    assert found.texts == list(split.captions)
    assert found.gt == [(row, clip.id) for row, clip in enumerate(split.clips)]
    assert found.meta["data"] == {"dataset": "synthetic", "split": "twins"}
    assert evaluate.stored_pairs(found).sha256 == evaluate.Pairs.of(split).sha256
    before = {path: path.stat().st_mtime_ns for path in texts.rglob("*")}
    assert call(*CAPTIONS, "-o", texts)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in texts.rglob("*")} == before
    assert evaluate_main([str(feats), "--text-features", str(texts), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["t2v"]["queries"] == N


class Files(Dataset):
    """Two parts of one file, and a file that is not there."""

    splits = ("test",)

    def load(self, root, split, *, limit=None):
        self.check(root, split)
        clips = (
            Clip("first", root / "in" / "a.mp4", 0.0, 0.5),
            Clip("cafe\u0301", root / "in" / "a.mp4", 0.5, 1.0),
            Clip("gone", root / "in" / "gone.mp4"),
        )[:limit]
        return Split("files/test", clips, ("one", "two", "three")[:limit], (0, 1, 2)[:limit])


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A dataset of files, in a folder that is named by a link."""
    draw(tmp_path / "real" / "in" / "a.mp4", seed=1)
    (tmp_path / "root").symlink_to(tmp_path / "real")
    load = plugins.load
    monkeypatch.setattr(
        plugins, "load", lambda *names: Files() if names[1] == "files" else load(*names)
    )
    return tmp_path / "root"


def test_clips_that_are_parts_of_files(files, tmp_path):
    with pytest.raises(
        TtvrError, match=r"1 of 3 videos of files/test are not there: gone\. .*skip"
    ):
        dataset_inputs("files", "test", root=files)
    made = dataset_inputs("files", "test", root=files, missing="skip")
    assert [item.clip.id for item in made.items] == ["first", "caf\u00e9"]
    assert made.absent == {"gone": "no such video"}
    assert made.has_files
    sources = [item.source for item in made.items]
    assert {source.root for source in sources} == {str(tmp_path / "real")}
    assert [source.path for source in sources] == ["in/a.mp4", "in/a.mp4"]
    assert [(s.start, s.end) for s in sources] == [(0.0, 0.5), (0.5, 1.0)]
    assert sources[0].size == (files / "in" / "a.mp4").stat().st_size
    how = extract.Options(frames=4, sampler="segment", fps=None).decoding(32, made.read)
    found = [decoding.decode(item.clip, how, threading.Event()) for item in made.items]
    whole = video.read_frames(files / "in" / "a.mp4", range, size=32).pixels
    np.testing.assert_array_equal(found[0].pixels, whole[:4])
    np.testing.assert_array_equal(found[1].pixels, whole[4:])
    elsewhere = tmp_path / "elsewhere"
    (files / "in").rename(elsewhere)
    (tmp_path / "real" / "in").symlink_to(elsewhere)
    assert dataset_inputs("files", "test", root=files, limit=1).items[0].source.root == str(
        elsewhere
    )


WRONG = {
    "no such dataset": (("--data", "none of them", "-o", "x"), "invalid choice"),
    "paths too": (("v", *CLIPS, "-o", "x"), "--data goes without PATHs"),
    "a file of texts too": (("--text", "t", *CLIPS[:-2], "-o", "x"), "a FILE of --text"),
    "texts of nothing": (("--text", "-o", "x"), "--text FILE: only with --data"),
    "a split of nothing": (("v", "--split", "val", "-o", "x"), "--split: of a dataset"),
    "a limit of nothing": (("v", "--limit", 3, "-o", "x"), "--limit: of a dataset"),
    "missing of nothing": (("v", "--missing", "skip", "-o", "x"), "--missing: of a dataset"),
    "missing of captions": ((*CAPTIONS, "--missing", "skip", "-o", "x"), "only without --text"),
    "truth twice": ((*CAPTIONS, "--gt", "x", "-o", "x"), "--gt: a dataset tells itself"),
    "no such split": (("--data", "synthetic", "--split", "big", "-o", "x"), "train, val, test"),
    "frames of captions": ((*CAPTIONS, "--frames", 3, "-o", "x"), "--frames: only without --text"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG)
def test_wrong_use(call, capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    try:
        code, out, err = call(*arguments)
    except SystemExit as end:
        code, (out, err) = end.code, capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_drawn_clips_have_candidates_by_the_second():
    made = plugins.load("datasets", "synthetic")
    clip = made.load(None, "test", limit=1).clips[0]
    asked = []

    def choose(count):
        asked.append(count)
        return list(range(count))

    found = made.frames(clip, choose, fps=2)
    assert asked == [6]
    np.testing.assert_allclose(found.times, np.arange(6) / 2)
    np.testing.assert_array_equal(found.pixels, made.read(clip, range, size=128)[::6])
    assert found.info.duration == found.status.decoded_s == 3.0
