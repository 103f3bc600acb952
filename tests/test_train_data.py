"""`ttvr-train` on datasets of files: which split chooses, and that all videos are there."""

from __future__ import annotations

import json

import pytest
import toy_datasets
from test_extract import draw
from tiny_training import colors, data, write_start

from ttvr import datasets, retriever
from ttvr.commands import _train_select
from ttvr.commands import train as train_command
from ttvr.commands.train import main
from ttvr.recipes import Recipe

NAMES = ("a", "b", "c", "d")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    made = tmp_path_factory.mktemp("root")
    for seed, name in enumerate(NAMES):
        draw(made / "videos" / f"{name}.mp4", seed=seed)
    splits = ("train",) * 4 + ("test",) * 2
    pairs = zip((*NAMES, "a", "b"), splits, strict=True)
    toy_datasets.put(
        made / "captions.tsv", "".join(f"{name}\tthe {name}\t{split}\n" for name, split in pairs)
    )
    return made


@pytest.fixture
def train(root, tmp_path_factory, capsys):
    start = write_start(tmp_path_factory.mktemp("start"))
    small = ("-w", start, "-b", 2, "--frames", 2, "--epochs", 1, "--device", "cpu")

    def run(*arguments, data="folder", where=root):
        code = main([*map(str, ("--data", data, "--root", where, *small, *arguments))])
        return code, *capsys.readouterr()

    return run


def test_a_split_to_choose_by_has_to_be_named(train, tmp_path):
    code, _, err = train("-o", tmp_path / "x", data="msrvtt", where=tmp_path)
    assert code == 2
    assert "msrvtt:9k has no validation split" in err
    assert "--select last, or --val-split NAME (it has: train, test;" in err
    code, _, err = train("-o", tmp_path / "x")
    assert code == 2
    assert "folder has no validation split" in err
    assert "(it has: train, test;" in err
    assert not (tmp_path / "x").exists()


def test_a_dry_run_keeps_no_frames(train, tmp_path):
    code, out, err = train("--dry-run", "--select", "test", "--cache", tmp_path / "frames")
    assert (code, json.loads(out)["steps"]) == (0, 2), err
    assert not (tmp_path / "frames").exists()


@pytest.mark.parametrize(
    ("flags", "warned"),
    [
        ("--data activitynet --val-split val1", "best.pt is chosen on val1"),
        ("--data activitynet --val-split val1 --select last", ""),
        ("--data msrvtt --select test", "best.pt is chosen on test"),
        ("--data msvd", ""),
    ],
)
def test_what_papers_test_on_is_known_under_any_name(caplog, flags, warned):
    args = train_command._parser().parse_args(flags.split())
    _train_select.settle(args)
    _train_select.warn(args)
    assert [warned] * bool(warned) == [text.partition(",")[0] for text in caplog.messages]


@pytest.mark.parametrize("flag", ["--val-split", "--select"])
def test_the_split_that_chose_is_told(train, tmp_path, flag):
    code, out, err = train("-o", tmp_path / "x", flag, "test", "--json")
    assert code == 0, err
    assert "best.pt is chosen on test" in err
    protocol = json.loads(out)["protocol"]
    assert protocol["split"] == "folder/test"
    chosen = {"select": "best", "on": "test", "step": 2, "steps": 2}
    assert protocol["selection"] == chosen
    assert retriever.load(tmp_path / "x" / "best.pt").trained == {**chosen, "seed": 0}


def test_that_it_starts_from_the_toy_is_told(caplog):
    for weights, clips, said in (
        ("ttvr-tiny", colors("train"), 1),
        ("scratch:ttvr-tiny", colors("train"), 0),
        ("gone.pt", colors("train"), 0),
        ("default", datasets.load("synthetic").load(None, "train", limit=2), 0),
    ):
        caplog.clear()
        train_command._warn_of_start(Recipe(weights=weights), data(train=clips))
        assert len([text for text in caplog.messages if "is a toy" in text]) == said


def test_without_validation_the_last_model_is_kept(train, tmp_path):
    code, out, err = train("-o", tmp_path / "x", "--select", "last")
    assert code == 0, err
    assert "split folder/train" in out
    assert "selection last, after step 2 of 2" in out
    assert (tmp_path / "x" / "best.pt").exists()


def test_all_videos_have_to_be_there(train, root, tmp_path):
    video = root / "videos" / "c.mp4"
    video.rename(root / ".c.mp4")
    try:
        code, _, err = train("-o", tmp_path / "x", "--val-split", "test")
    finally:
        (root / ".c.mp4").rename(video)
    assert code == 1
    assert "1 of 4 videos of folder/train are not there below" in err
    assert not (tmp_path / "x" / "best.pt").exists()


def test_cached_frames_change_no_bit(train, tmp_path):
    cache = tmp_path / "deep" / "cache"
    arguments = ("--val-split", "test", "--epochs", 2)
    results = []
    for name, more in (("plain", ()), ("made", ("--cache", cache)), ("used", ("--cache", cache))):
        code, out, err = train("-o", tmp_path / name, *arguments, *more)
        assert code == 0, err
        assert ("all frames of 4 clips, about 32, take 0.0 GB at 16 pixels" in err) == bool(more)
        said = out.replace(str(tmp_path / name), "")
        results.append((said, (tmp_path / name / "best.pt").read_bytes()))
    assert results[0] == results[1] == results[2]
    assert len(list(cache.iterdir())) == 4  # a and b are in both splits


def test_clips_that_are_drawn_are_not_cached(train, tmp_path):
    code, _, err = train("-o", tmp_path / "x", "--cache", tmp_path / "c", data="synthetic")
    assert (code, "drop --cache" in err) == (2, True)
    assert not (tmp_path / "c").exists()
