"""ttvr-demo: that it tells the truth, and that what it shows can be typed."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tiny import tiny_state

import ttvr
from ttvr import plugins
from ttvr.clip import catalog, tokenizer, weights
from ttvr.commands import _demo_shell as shell
from ttvr.commands import data
from ttvr.commands import demo as command
from ttvr.commands import eval as eval_command
from ttvr.datasets.synthetic import scene_of
from ttvr.store import Features, attempts

ROOT = Path(__file__).parents[1]
CLIPS = 8


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """A folder with untrained weights of the default's name, which know the words of the demo."""
    folder = tmp_path_factory.mktemp("weights")
    split = plugins.load("datasets", "synthetic").load(None, "test", limit=CLIPS)
    state = tiny_state(vocabulary=49408)
    known = {token for text in split.captions for token in tokenizer.encode(text)}
    known |= {tokenizer.SOT, tokenizer.EOT}
    unknown = [token for token in range(49408) if token not in known]
    state["token_embedding.weight"][unknown] = 0
    weights.save(state, folder / "ttvr-tiny.npz", note=weights.TOY)
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch, stand_in):
    monkeypatch.setenv("TTVR_WEIGHTS", str(stand_in))
    monkeypatch.chdir(tmp_path)
    handler = signal.getsignal(signal.SIGINT)
    yield tmp_path
    signal.signal(signal.SIGINT, handler)


@pytest.fixture
def run(home, capsys):
    def call(*argv):
        try:
            code = command.main(["--clips", str(CLIPS), *argv])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return call


def hide_ffmpeg(monkeypatch):
    monkeypatch.delenv("TTVR_FFMPEG", raising=False)
    monkeypatch.setenv("PATH", "/nowhere-in-the-demo")
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)


def typed(session):
    """The lines that a user would type."""
    return [line[2:] for line in session.splitlines() if line.startswith("$ ")]


def settled(text):
    """Without what differs from run to run: speeds and seconds."""
    text = re.sub(r", [\d.]+/s", "", text)
    return re.sub(r", [\d.]+ s$", "", text, flags=re.MULTILINE)


@pytest.mark.parametrize("kind", ["mp4", "images"])
def test_the_whole_story(kind, run, monkeypatch):
    if kind == "images":
        hide_ffmpeg(monkeypatch)
    streams = sys.stdin, sys.stdout, sys.stderr, sys.argv
    code, out, err = run()
    assert (sys.stdin, sys.stdout, sys.stderr, sys.argv) == streams
    assert (code, err) == (0, "")
    names = [line.split()[0] for line in typed(out) if line.startswith("ttvr-")]
    commands = ["data", "extract", "rank", "eval", "rank"]
    assert names == [f"ttvr-{name}" for name in commands]
    split = plugins.load("datasets", "synthetic").load(None, "test", limit=CLIPS)
    ids = [clip.id for clip in split.clips]
    features = Features.open("demo/feats")
    assert sorted(features.ids) == sorted(ids)
    (failed,) = [line for line in attempts(Path("demo/feats")) if line["status"] == "failed"]
    name = "broken.mp4" if kind == "mp4" else "broken"
    assert failed["path"] == name
    (said,) = re.findall(rf"^.*/demo/videos/{name}: failed: (\w+): .+$", out, re.MULTILINE)
    assert said == failed["error"]
    assert "\n$ echo $?\n3\n" in out
    assert Image.open("demo/hits.png").width > 100
    assert "ttvr-weights fetch ViT-B/32" in out
    assert "the default model is a toy that" not in out  # the notice is for real videos
    assert "never saw" not in out
    assert ("folders of images" in out) == (kind == "images")
    suffix = ".mp4" if kind == "mp4" else ""
    assert all(Path(f"demo/videos/{one}{suffix}").exists() for one in ids)


def test_its_sentences_ask_for_no_order(run):
    _, out, _ = run()
    sentences = Path("demo/queries.txt").read_text().splitlines()
    split = plugins.load("datasets", "synthetic").load(None, "test", limit=CLIPS)
    clips = dict(zip(split.captions, split.clips, strict=True))
    assert 0 < len(sentences) <= command.SENTENCES
    for sentence in sentences:
        assert scene_of(clips[sentence].id).kind in command.STEADY
    # The ticks, from the lines of the ranking that it printed.
    ranked = [line.split("\t") for line in out.splitlines() if line.count("\t") == 5]
    for number, sentence in enumerate(sentences):
        right = clips[sentence].id
        (tick,) = re.findall(rf"^# (.*?) +{right}  {sentence}$", out, re.MULTILINE)
        rows = ranked[command.TOP * number : command.TOP * (number + 1)]
        places = [cells[1] for cells in rows if cells[3] == right]
        assert tick == (f"\u2713 {places[0]}" if places else "\u2717")


def test_a_tick_for_the_right_clip(home, capsys, monkeypatch):
    split = plugins.load("datasets", "synthetic").load(None, "test", limit=CLIPS)

    def rank(sentences, feats, top, **options):
        first = [f"test-0000{4 + 2 * n}" for n in range(len(sentences))]
        hits = [ttvr.search.Hit(2, one, "", 0.0, None) for one in first]
        return [ttvr.search.Hits(n, None, s, (hits[n],)) for n, s in enumerate(sentences)]

    monkeypatch.setattr("ttvr.search.rank", rank)
    command._tick(split, [4, 5], "feats")
    _, tick, cross = capsys.readouterr().out.strip().splitlines()
    assert tick == f"# \u2713 2  test-00004  {split.captions[4]}"
    assert cross == f"# \u2717    test-00005  {split.captions[5]}"


def test_five_sentences_of_64_clips():
    split = plugins.load("datasets", "synthetic").load(None, "test", limit=command.CLIPS)
    asked = command._asked(split)
    kinds = [scene_of(split.clips[number].id).kind for number in asked]
    assert len(asked) == command.SENTENCES
    assert asked == sorted(asked)
    assert set(kinds) <= set(command.STEADY)
    assert max(kinds.count(kind) for kind in kinds) <= 2


def test_running_twice_keeps_what_is_there(run):
    _, first, _ = run()
    kept = [*Path("demo/videos").iterdir(), *Path("demo/feats/video").iterdir()]
    before = [path.stat().st_mtime_ns for path in kept]
    code, second, err = run()
    assert (code, err) == (0, "")
    assert [path.stat().st_mtime_ns for path in kept] == before
    assert typed(second) == typed(first)
    assert "from an earlier run" in second
    code, third, err = run("--overwrite")
    assert (code, err) == (0, "")
    assert "from an earlier run" not in third
    assert all(
        path.stat().st_mtime_ns != time
        for path, time in zip(kept, before, strict=True)
        if path.stem not in ("broken", "gt", "captions")
    )


def test_what_is_shown_can_be_typed(run, home, tmp_path):
    """The same lines in an empty folder say the same, whatever its name."""
    name = "a demo's"
    _, out, _ = run("-o", name)
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    paths = [ROOT / "bin", Path(sys.executable).parent, os.environ["PATH"]]
    done = subprocess.run(
        ["bash", "-c", "\n".join(typed(out))],
        cwd=fresh,
        env={
            **os.environ,
            "PATH": os.pathsep.join(map(str, paths)),
            "OMP_NUM_THREADS": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    mine = [line for line in settled(out).splitlines() if line and line[:2] not in ("$ ", "# ")]
    mine = [line for line in mine if line != "#"]
    protocol = [line for line in out.splitlines() if line.startswith("# split ")]
    theirs = settled(done.stdout.replace(str(fresh), str(home))).splitlines()
    assert sorted(theirs) == sorted([*mine, *protocol])
    for feats in (home, fresh):
        assert len(Features.open(feats / name / "feats")) == CLIPS
    one, other = (Path(at, name, "feats", "meta.json").read_text() for at in (home, fresh))
    argv = [json.loads(text)["provenance"]["argv"] for text in (one, other)]
    assert [Path(shlex.split(line)[0]).name for line in argv] == ["ttvr-extract"] * 2
    assert shlex.split(argv[0])[1:] == shlex.split(argv[1])[1:]


def test_without_weights(run, home, monkeypatch, tmp_path):
    monkeypatch.setattr(catalog, "_PACKAGE", tmp_path / "ttvr")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TTVR_WEIGHTS")
    code, out, err = run()
    assert (code, out) == (5, "")
    assert err.startswith("ttvr-demo: no weights 'default': looked for ttvr-tiny.npz in ")
    assert "install ttvr again" in err
    assert not Path("demo").exists()


def test_a_command_that_fails_is_not_passed_over(run, monkeypatch):
    monkeypatch.setattr(eval_command, "main", lambda argv: 4)
    code, _, err = run()
    assert code == 4
    assert re.fullmatch(r"ttvr-demo: `ttvr-eval .*` ended with exit code 4, expected 0\n", err)
    assert not Path("demo/hits.png").exists()
    shutil.rmtree("demo/videos")
    monkeypatch.setattr(command, "_BROKEN", {"mp4": 1 << 20})  # not broken at all
    code, _, err = run()
    assert code == 1
    assert "ended with exit code 0, expected 3" in err


def test_interrupted(run, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(data, "_work", stop)
    code, out, err = run()
    assert code == 130
    assert "ttvr-data: interrupted" in out
    assert err == "ttvr-demo: interrupted; the same command run again goes on from here\n"


def test_wrong_use(run):
    assert run("--clips", "0")[0] == 2
    code, out, err = run("--clips", "1")
    assert (code, out) == (2, "")
    assert "too few" in err
    assert not Path("demo").exists()


def test_unexpected_ends_have_a_code():
    assert shell.Unexpected("x", 0, 3).exit_code == 1
    assert shell.Unexpected("x", 5, 0).exit_code == 5
