"""`ttvr-data check`: annotations, counts, and videos that are there and decode."""

from __future__ import annotations

import json
import re
import threading
from concurrent.futures import CancelledError

import pytest
import toy_datasets
from test_extract import draw

from ttvr import video
from ttvr.commands.data import main
from ttvr.datasets._base import Dataset

COLUMNS = "split\tannotations\tcounts\tvideos\tcaptions\tpresent\tmissing\tbroken"


@pytest.fixture
def check(capsys):
    def run(*arguments):
        try:
            code = main(["check", *map(str, arguments)])
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def mine(tmp_path):
    """Two videos in `test`, one of them in `train` too."""
    draw(tmp_path / "a.mp4", seed=1)
    draw(tmp_path / "deep" / "b.mp4", seed=2)
    toy_datasets.put(tmp_path / "captions.tsv", "a\tone\na\ttwo\ndeep/b\tthree\n")
    return tmp_path


def test_all_is_there(check, mine):
    code, out, err = check("--data", "folder", "--root", mine, "--split", "test", "-j", 2)
    assert code == 0
    assert out == f"{COLUMNS}\ntest\tok\tunchecked\t2\t3\t2\t0\t0\n"
    assert "missing" not in err
    assert "folder/test: 2 videos, unchecked" in err


def test_missing_and_broken_videos(check, mine):
    whole = (mine / "a.mp4").read_bytes()
    (mine / "torn.mp4").write_bytes(whole[: len(whole) // 3])
    (mine / "empty.mp4").touch()
    lines = "".join(f"{name}\tx\n" for name in ("torn", "empty", "gone"))
    with (mine / "captions.tsv").open("a") as file:
        file.write(lines)
    arguments = ("--data", "folder", "--root", mine, "--split", "test")
    code, out, err = check(*arguments)
    assert code == 3
    assert out.splitlines()[1] == "test\tok\tunchecked\t5\t6\t4\t1\t2"
    assert "test: gone: missing: no such video\n" in err
    assert "test: empty: broken: empty: the file has 0 bytes\n" in err
    assert "test: torn: broken: " in err
    code, out, _ = check(*arguments, "--json", "-q")
    facts = json.loads(out)
    assert (code, facts["dataset"], facts["root"]) == (3, "folder", str(mine))
    (split,) = facts["splits"]
    assert split["missing"] == {"gone": "no such video"}
    assert set(split["broken"]) == {"torn", "empty"}
    assert (split["present"], split["videos"], split["error"]) == (4, 5, None)


def test_what_ends_early_is_broken(check, mine, monkeypatch):
    ended = video.Status("partial", 3.0, 1.25, 2)
    real = Dataset.frames
    monkeypatch.setattr(
        Dataset, "frames", lambda *args, **options: real(*args, **options)._replace(status=ended)
    )
    code, _, err = check("--data", "folder", "--root", mine, "--split", "test")
    assert code == 3
    assert "test: a: broken: partial: decodes for 1.2 s, 2 decoder errors\n" in err


def test_splits_of_ones_own_are_those_that_there_are(check, mine):
    code, out, _ = check("--data", "folder", "--root", mine)
    assert (code, [line.split("\t")[0] for line in out.splitlines()]) == (0, ["split", "test"])


def test_wrong_annotations(check, mine, monkeypatch):
    """Every split is looked at; the video of two splits is decoded once."""
    monkeypatch.setattr("ttvr.datasets.folder.Folder.splits_of", lambda self, root: self.splits)
    with (mine / "captions.tsv").open("a") as file:
        file.write("a\tone\ttrain\n")
    code, out, err = check("--data", "folder", "--root", mine, "--json", "--progress", "json")
    train, val, test = json.loads(out)["splits"]
    assert code == 4
    assert [one["annotations"] for one in (train, val, test)] == ["ok", "wrong", "ok"]
    assert val["error"].endswith("nothing of the split val; mend the file")
    assert (val["videos"], val["missing"], val["broken"]) == (None, {}, {})
    assert (train["present"], test["present"]) == (1, 2)
    progress = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert progress[-1]["total"] == 2
    code, out, err = check("--data", "folder", "--root", mine)
    assert (code, out.splitlines()[2]) == (4, "val\twrong" + 6 * "\t-")
    assert "captions.tsv: nothing of the split val" in err
    toy_datasets.write("lsmdc", mine)
    assert check("--data", "lsmdc", "--root", mine, "--split", "test")[0] == 4
    (mine / "captions.tsv").unlink()
    code, _, err = check("--data", "folder", "--root", mine, "--split", "test")
    assert code == 4
    assert "no captions.tsv or captions.jsonl in it; write captions.tsv, a line each: video" in err
    assert "authors" not in err


def test_an_interruption_kills_the_decoders(check, mine, monkeypatch):
    begun, stopped = threading.Event(), []

    def frames(self, clip, choose, *, stop, **options):
        if clip.id == "a":
            begun.wait(30)
            raise KeyboardInterrupt
        begun.set()
        stopped.append(stop.wait(30))
        raise CancelledError

    monkeypatch.setattr(Dataset, "frames", frames)
    code, out, err = check("--data", "folder", "--root", mine, "--split", "test", "-j", 2)
    assert (code, out, stopped) == (130, "", [True])
    assert "interrupted" in err


def test_a_long_list_is_cut(check, mine):
    lines = "".join(f"gone{number}\tx\n" for number in range(30))
    toy_datasets.put(mine / "captions.tsv", f"a\tone\n{lines}")
    code, _, err = check("--data", "folder", "--root", mine, "--split", "test")
    assert code == 3
    assert err.count(": missing: ") == 20
    assert "test: 10 more missing; --json lists all\n" in err


def test_without_videos_no_ffmpeg_is_needed(check, mine, monkeypatch):
    monkeypatch.setenv("TTVR_FFMPEG", str(mine / "nowhere"))
    assert check("--data", "folder", "--root", mine, "--split", "test")[0] == 5
    for path in mine.rglob("*.mp4"):
        path.unlink()
    assert check("--data", "folder", "--root", mine, "--split", "test")[0] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--root", "x"), "required: --data"),
        (("--data", "none"), "invalid choice: 'none' .*msrvtt"),
        (("--data", "msrvtt:1k"), "no variant '1k'"),
        (("--data", "msvd"), "pass --root DIR"),
        (("--data", "msvd", "--root", "nowhere"), "nowhere: no such folder"),
        (("--data", "activitynet", "--root", ".", "--split", "test"), "there are: train, val1"),
        (("--data", "msrvtt", "--root", ".", "--split", "val"), r"train, test \(of msrvtt:9k\)"),
        (("--data", "synthetic"), "synthetic has no files to check"),
    ],
)
def test_wrong_use(check, arguments, message):
    code, out, err = check(*arguments, "-q")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert re.search(message, err)


def test_six_clips_of_msrvtt(check, shared, tmp_path):
    """The real annotations, and the six videos that tests have."""
    if not (shared / "annotations").is_dir():
        pytest.skip("no ../shared/annotations beside the repository")
    for path in (shared / "annotations" / "msrvtt").iterdir():
        (tmp_path / path.name).symlink_to(path)
    for path in (shared / "videos").glob("msrvtt_*.mp4"):
        (tmp_path / path.name.removeprefix("msrvtt_")).symlink_to(path)
    arguments = ("--data", "msrvtt:full", "--root", tmp_path, "--split", "test")
    code, out, err = check(*arguments)
    assert code == 3
    assert out.splitlines()[1] == "test\tok\tok\t2990\t59800\t6\t2984\t0"
    assert "test: 2964 more missing" in err
