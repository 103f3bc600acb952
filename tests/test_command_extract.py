"""ttvr-extract: streams, exit codes, interruption."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_extract import clips, content, draw
from tiny import tiny_state

from ttvr import retriever, video
from ttvr.commands.extract import main
from ttvr.recipes import Recipe
from ttvr.store import Features

__all__ = ["clips"]
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.pt"
    torch.save(tiny_state(vocabulary=49408), path)
    return path


@pytest.fixture
def call(weights, capsys):
    def run(*arguments):
        code = main([*map(str, arguments), "-w", str(weights), "--activation", "quick_gelu"])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def good(tmp_path):
    """Two videos, none of which fails."""
    draw(tmp_path / "good" / "a.mp4", seed=1)
    draw(tmp_path / "good" / "b.mp4", seed=2)
    return tmp_path / "good"


def test_done(call, good, tmp_path):
    feats = tmp_path / "feats"
    code, out, err = call(good, "-o", feats)
    assert (code, out) == (0, f"{feats}\n")
    assert "2 videos in" in err
    assert Features.open(feats).ids == ["a", "b"]
    code, out, err = call(good, "-o", feats, "-q", "--progress", "never")
    assert (code, out, err) == (0, f"{feats}\n", "")


def test_done_in_part(call, clips, tmp_path):
    code, out, err = call(clips, "-o", tmp_path / "feats", "--json", "--frames", 4)
    assert code == 3
    facts = json.loads(out)
    assert facts["counts"] == {"ok": 8, "partial": 0, "failed": 1}
    assert facts["count"] == 8
    assert facts["skipped"] == 1
    assert facts["problems"][0]["path"] == str(clips / "2b.mp4")
    listed = [line for line in err.splitlines() if "2b.mp4: failed: " in line]
    assert len(listed) == 1
    assert call(clips, "-o", tmp_path / "feats", "--frames", 4, "--strict")[0] == 1


def test_nothing_usable(call, clips, tmp_path):
    code, out, err = call(clips / "2b.mp4", "-o", tmp_path / "feats")
    assert code == 1
    assert out == f"{tmp_path / 'feats'}\n"
    assert "no input gave features" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "x"], "nothing to extract"),
        (["v"], "pass -o"),
        (["v", "-o", "x"], "v: no such file or folder"),
        (["v", "--text", "t", "-o", "x"], "goes without PATHs"),
        (["v", "-o", "x", "--gt", "g"], "--gt: only with --text"),
        (["v", "-o", "x", "--on-long", "error"], "--on-long: only with --text"),
        (
            ["--text", "t", "-o", "x", "--frames", 3, "--no-frames", "--fps", 2, "-j", 2],
            "--frames, --fps, --no-frames, --jobs: only without --text",
        ),
        (["--text", "t", "-o", "x", "--patches"], "--patches: only without --text"),
        (["--text", "t", "-o", "x", "--sampler", "linspace"], "--sampler: only without --text"),
        (["v", "-o", "x", "-0"], "-0 goes with --files-from"),
    ],
)
def test_wrong_use(call, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("ttvr-extract: ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_folders_that_are_not_ours(call, good, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").touch()
    code, out, err = call(good, "-o", tmp_path / "mine", "--overwrite")
    assert (code, out) == (2, "")
    assert "not a feature folder" in err
    assert call(good, "-o", tmp_path / "feats")[0] == 0
    code, _, err = call(good, "-o", tmp_path / "feats", "--no-resume")
    assert code == 2
    assert "--overwrite" in err


def test_other_settings(call, good, tmp_path):
    assert call(good, "-o", tmp_path / "feats")[0] == 0
    code, out, err = call(good, "-o", tmp_path / "feats", "--frames", 3)
    assert (code, out) == (4, "")
    assert "preprocess.frames is 12, now 3" in err
    code, _, _ = call(good, "-o", tmp_path / "feats", "--frames", 3, "--overwrite")
    assert code == 0
    assert Features.open(tmp_path / "feats").frames.shape[:2] == (2, 3)


def test_without_weights(good, tmp_path, capsys):
    code = main([str(good), "-o", str(tmp_path / "feats"), "-w", str(tmp_path / "no.pt")])
    out, err = capsys.readouterr()
    assert (code, out) == (5, "")
    assert "no.pt" in err.splitlines()[-1]
    assert not (tmp_path / "feats").exists()


def test_without_ffmpeg(call, good, clips, tmp_path, monkeypatch):
    monkeypatch.setenv("TTVR_FFMPEG", str(tmp_path / "nowhere"))
    code, out, err = call(good, "-o", tmp_path / "feats")
    assert (code, out) == (5, "")
    assert "TTVR_FFMPEG" in err
    assert not (tmp_path / "feats").exists()
    assert call(clips / "stills", clips / "deep" / "moving.gif", "-o", tmp_path / "feats")[0] == 0
    assert Features.open(tmp_path / "feats").meta["provenance"]["ffmpeg"] is None


def test_lists_of_files(call, good, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("list").write_text("good/a.mp4\r\n\ngood/b.mp4\ngone.mp4\n")
    code, _, err = call("--files-from", "list", "-o", "feats", "--root", ".")
    assert code == 3
    assert "gone.mp4: failed: invalid_data" in err
    assert Features.open("feats").ids == ["good/a", "good/b"]
    text = io.TextIOWrapper(io.BytesIO(b"good/b.mp4\0good/a.mp4\0"))
    monkeypatch.setattr(sys, "stdin", text)
    assert call("--files-from", "-", "-0", "-o", "other")[0] == 0
    assert Features.open("other").ids == ["b", "a"]
    Path("list").write_bytes(b"good/a.mp4\0good/b.mp4\0")
    code, out, err = call("--files-from", "list", "-o", "third")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == "ttvr-extract: list: holds NUL bytes; pass -0"


def test_dry_run(call, good, tmp_path):
    feats = tmp_path / "feats"
    expected = f"make\ta\t{good}/a.mp4\nmake\tb\t{good}/b.mp4\n"
    assert call(good, "-o", feats, "--dry-run")[:2] == (0, expected)
    assert not feats.exists()
    call(good, "-o", feats)
    draw(good / "a.mp4", seed=5)
    before = content(feats)
    code, out, err = call(good, "-o", feats, "--dry-run", "--json")
    assert code == 0
    assert [item["action"] for item in json.loads(out)["items"]] == ["make", "keep"]
    assert "1 to make, 1 to keep, 0 to drop" in err
    (good / "a.mp4").unlink()
    _, out, err = call(good, "-o", feats, "--dry-run")
    assert out == f"keep\tb\t{good}/b.mp4\ndrop\ta\t{good}/a.mp4\n"
    assert "1 to keep, 1 to drop" in err
    assert content(feats) == before
    assert "1 kept, 1 dropped: no longer among the inputs" in call(good, "-o", feats)[2]


def test_other_videos_are_not_dropped_unasked(call, good, tmp_path, monkeypatch):
    feats = tmp_path / "feats"
    call(good, "-o", feats)
    draw(tmp_path / "new" / "a.mp4", seed=3)
    before = content(feats)
    monkeypatch.setattr(retriever, "load", None)  # refused without it
    for flags in ((), ("--dry-run",)):
        code, out, err = call(tmp_path / "new", "-o", feats, *flags)
        assert (code, out, err.count("\n")) == (4, "", 1)
        assert "holds 2 other videos, none of them among these inputs" in err
    (tmp_path / "texts").write_text("a dog\n")
    for arguments in ((good, "--frames", 3), ("--text", tmp_path / "texts")):
        code, _, err = call(*arguments, "-o", feats)
        assert (code, err.count("\n")) == (4, 1)
    assert content(feats) == before


def test_names_that_cannot_be_ids(call, good, tmp_path):
    odd = [good / os.fsdecode(b"caf\xe9.mp4"), good / "two\nlines.mp4"]
    for path in odd:
        path.touch()
    code, out, err = call(good, "-o", tmp_path / "feats", "--json")
    assert code == 3
    assert json.loads(out)["unnamed"] == [str(path) for path in odd]
    assert "2 left out: names that cannot be ids" in err
    assert f"{str(odd[0])!r}: failed: its name cannot be an id (it is not UTF-8); rename it" in err
    assert r"two\nlines.mp4': failed: its name cannot be an id (it has a line break)" in err
    assert call(good, "-o", tmp_path / "feats", "--strict")[0] == 1
    (tmp_path / "list").write_bytes(os.fsencode(odd[0]))
    code, _, err = call(good / "a.mp4", "--files-from", tmp_path / "list", "--dry-run", "-o", "x")
    assert (code, "it is not UTF-8" in err) == (0, True)
    assert call(odd[0], "-o", tmp_path / "feats")[0] == 2


def test_failures_of_an_earlier_run(call, clips, tmp_path):
    feats, hint = tmp_path / "feats", "(from an earlier run; --retry-failed tries it again)"
    (tmp_path / "x.mp4").write_bytes(b"no video")
    said = []
    for flags in ((), (), ("--retry-failed",)):
        code, _, err = call(clips / "0.mp4", tmp_path / "x.mp4", "-o", feats, *flags)
        assert code == 3
        said.append((hint in err, "2 kept" in err, "2/2 videos" in err and "1 failed" in err))
    assert said == [(False, False, True), (True, True, True), (False, False, True)]


def test_a_dry_run_refuses_what_the_run_refuses(call, good, tmp_path):
    feats = tmp_path / "feats"
    call(good, "-o", feats)
    for flags, code in (
        (("--frames", 3), 4),
        (("--dtype", "float32"), 4),
        (("--patches",), 4),
        (("--fps", 4), 4),
        (("--exact-resize",), 4),
        (("--no-resume",), 2),
        ((), 0),
        (("--sampler", "segment", "--fps", "source", "--frames", 12), 0),
    ):
        said = []
        for dry in (("--dry-run",), ()):
            found, out, err = call(good, "-o", feats, *flags, *dry)
            assert found == code
            said.append(err.splitlines()[-1])
            if code:
                assert out == ""
        if code == 4:
            key = said[0].split("nothing was changed: ")[1].split(";")[0]
            assert key in said[1]
            assert "was made with other settings" in said[0]
    assert call(good, "-o", feats, "--frames", 3, "--overwrite", "--dry-run")[0] == 0
    assert call(good, "-o", good, "--dry-run")[0] == 2


def test_rates(call, weights, good, tmp_path, capsys):
    model = retriever.load(weights, activation="quick_gelu")
    model.recipe = Recipe(fps=2.0, frames=3)
    model.save(tmp_path / "run.pt")
    for flags, fps in (((), 2.0), (("--fps", "source"), None), (("--fps", 3), 3.0)):
        feats = tmp_path / f"feats{fps}"
        arguments = (good, "-o", feats, "-w", tmp_path / "run.pt", *flags)
        assert main([str(one) for one in arguments]) == 0
        assert Features.open(feats).meta["preprocess"]["fps"] == fps
    for wrong in ("0", "nan", "all", ""):
        with pytest.raises(SystemExit) as caught:
            call(good, "-o", tmp_path / "x", "--fps", wrong)
        assert caught.value.code == 2
        assert "frames per second nor 'source'" in capsys.readouterr().err


def test_patches_tell_their_size(call, good, tmp_path):
    code, _, err = call(good, "-o", tmp_path / "feats", "--patches", "--no-frames")
    assert code == 0
    assert "bytes per video" in err.splitlines()[0]
    assert Features.open(tmp_path / "feats").patches is not None
    assert not (tmp_path / "feats" / "frames").exists()


def test_texts(call, tmp_path, monkeypatch):
    captions = "a dog\nid\ta cat on a mat\n\nlong" + " word" * 90 + "\r\na dog\n"
    (tmp_path / "captions.txt").write_text(captions)
    (tmp_path / "gt.tsv").write_text("a dog\tv1\na cat on a mat\tv2\na dog\tv3\n")
    folder = tmp_path / "tfeats"
    code, out, err = call(
        *("--text", tmp_path / "captions.txt", "--gt", tmp_path / "gt.tsv", "-o", folder)
    )
    assert (code, out) == (0, f"{folder}\n")
    assert "1 of 4 texts have more than 77 tokens" in err
    features = Features.open(folder)
    assert features.texts[:2] == ["a dog", "a cat on a mat"]
    assert features.gt == [(0, "v1"), (1, "v2"), (3, "v3")]
    assert features.words.shape[:2] == (4, 77)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(captions.encode())))
    code, out, _ = call("--text", "-", "--words", 16, "-o", tmp_path / "other", "--json")
    assert json.loads(out) == {"out": str(tmp_path / "other"), "count": 4, "truncated": 1}
    assert Features.open(tmp_path / "other").words.shape[:2] == (4, 16)


def test_texts_again(call, tmp_path):
    (tmp_path / "captions.txt").write_text("a dog\na cat\n")
    text = ("--text", tmp_path / "captions.txt", "-o", tmp_path / "t")
    for number, (lines, rest) in enumerate(
        (
            ("a dog\tv1\n", ("--gt", tmp_path / "gt.tsv")),
            ("", ()),
            ("a dog\tv1\n", ("--gt", tmp_path / "gt.tsv")),
            ("a cat\tv2\n", ("--gt", tmp_path / "gt.tsv")),
        )
    ):
        (tmp_path / "gt.tsv").write_text(lines)
        before = [(path, path.stat().st_mtime_ns) for path in (tmp_path / "t").rglob("*")]
        assert call(*text, *rest)[0] == 0
        after = [(path, path.stat().st_mtime_ns) for path in (tmp_path / "t").rglob("*")]
        assert (before == after) == (number in (1, 2))
        assert Features.open(tmp_path / "t").gt == [(1, "v2") if number == 3 else (0, "v1")]


def test_texts_that_cannot_be(call, tmp_path):
    (tmp_path / "captions.txt").write_text("a dog\nlong" + " word" * 90)
    (tmp_path / "gt.tsv").write_text("a cat\tv1\n")
    text = ("--text", tmp_path / "captions.txt", "-o", tmp_path / "t")
    for rest, message in (
        (("--on-long", "error"), "1 of 2 texts have more than 77 tokens"),
        (("--words", 78), "the model takes 77"),
        (("--gt", tmp_path / "gt.tsv"), "gt.tsv:1: its caption is not among the texts"),
    ):
        code, out, err = call(*text, *rest)
        assert (code, out) == (2, "")
        assert message in err
    for name, wrong, rest, message in (
        ("captions.txt", b"a dog\nid2\t\n", (), "captions.txt:2: no text after the id 'id2'"),
        ("captions.txt", b"a dog\n\xff\n", (), "captions.txt:2: not UTF-8"),
        ("captions.txt", b"\n \n", (), "no texts; expected one per line"),
        ("gt.tsv", b"a dog\n", ("--gt", tmp_path / "gt.tsv"), "gt.tsv:1: expected `caption<TAB>"),
    ):
        (tmp_path / "captions.txt").write_text("a dog\n")
        (tmp_path / name).write_bytes(wrong)
        code, out, err = call(*text, *rest)
        assert (code, out) == (1, "")
        assert message in err
    assert call("--text", tmp_path / "none.txt", "-o", tmp_path / "t")[0] == 1
    assert not (tmp_path / "t").exists()


def start(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "ttvr", "extract", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_killed_and_run_again(call, weights, tmp_path):
    """SIGKILL, then SIGTERM; then the bytes of a run that nothing disturbed."""
    videos, feats, slow = tmp_path / "videos", tmp_path / "feats", tmp_path / "ffmpeg"
    draw(videos / "00.mp4", seed=0)
    draw(videos / "01.mp4", seed=1)
    for number in range(2, 9):
        shutil.copy(videos / f"{number % 2:02d}.mp4", videos / f"{number:02d}.mp4")
    slow.write_text(f'#!/bin/sh\nsleep 0.1\nexec {video.find_ffmpeg()} "$@"\n')
    slow.chmod(0o755)
    (videos / "05b.mp4").write_bytes(b"no video")
    journal = feats / "items.jsonl"
    for lines, number in ((2, signal.SIGKILL), (4, signal.SIGTERM)):
        flags = ("-w", weights, "--activation", "quick_gelu", "--shard-rows", 3, "-j", 1)
        process = start(videos, "-o", feats, *flags, TTVR_FFMPEG=str(slow))
        wait_for(lambda n=lines: journal.exists() and journal.read_bytes().count(b"\n") >= n)
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
        assert process.returncode == (-9 if number == signal.SIGKILL else 130)
        assert out == ""
        if number != signal.SIGKILL:
            assert "interrupted; the same command run again goes on" in err
        assert (feats / "meta.json").exists()
    assert 4 <= journal.read_bytes().count(b"\n") < 10
    assert call(videos, "-o", feats, "--shard-rows", 3, "-j", 2)[0] == 3
    assert call(videos, "-o", tmp_path / "whole", "--shard-rows", 3)[0] == 3
    assert content(feats) == content(tmp_path / "whole")


def test_an_interruption_kills_a_decoder_that_hangs(weights, good, tmp_path):
    fake, pids = tmp_path / "ffmpeg", tmp_path / "pids"
    fake.write_text(
        '#!/bin/sh\ncase "$*" in *-version*) echo "ffmpeg version 6.0 fake"; exit;; esac\n'
        f"echo $$ >> {pids}\nexec sleep 60\n"
    )
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    process = start(good, "-o", tmp_path / "feats", "-w", weights, TTVR_FFMPEG=str(fake))
    wait_for(pids.exists)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert time.monotonic() - began < 10
    for pid in pids.read_text().split():
        wait_for(lambda pid=pid: not is_running(int(pid)))
