"""ttvr-demo: that it tells the truth, and that what it shows can be typed."""

from __future__ import annotations

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

CLIPS = 7  # the seventh is the first that is asked for


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """A folder with untrained weights of the default's name, which know the words of the demo."""
    folder = tmp_path_factory.mktemp("weights")
    split = plugins.load("datasets", "synthetic").load(None, "test", limit=CLIPS)
    state = tiny_state(vocabulary=49408, layers=4)
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


@pytest.mark.parametrize(("kind", "folder"), [("mp4", "demo"), ("images", "a demo's")])
def test_the_whole_story(kind, folder, run, monkeypatch):
    if kind == "images":
        hide_ffmpeg(monkeypatch)
    streams = sys.stdin, sys.stdout, sys.stderr, sys.argv
    code, out, err = run(*([] if folder == "demo" else ["-o", folder]))
    assert (sys.stdin, sys.stdout, sys.stderr, sys.argv) == streams
    assert (code, err) == (0, "")
    names = [line.split()[0] for line in typed(out) if line.startswith("ttvr-")]
    commands = ["data", "extract", "rank", "eval", "rank"]
    commands += ["extract", "eval", "extract", "eval", "show"]
    assert names == [f"ttvr-{name}" for name in commands]
    split = plugins.load("datasets", "synthetic").load(None, "test", limit=CLIPS)
    ids = [clip.id for clip in split.clips]
    home = Path(folder)
    features = Features.open(home / "feats")
    assert sorted(features.ids) == sorted(ids)
    (failed,) = [line for line in attempts(home / "feats") if line["status"] == "failed"]
    name = "broken.mp4" if kind == "mp4" else "broken"
    assert failed["path"] == name
    (said,) = set(re.findall(rf"^.*/{folder}/videos/{name}: failed: (\w+): .+$", out, re.MULTILINE))
    assert said == failed["error"]
    assert "\n$ echo $?\n3\n" in out
    assert Image.open(home / "hits.png").width > 100
    assert "ttvr-weights fetch ViT-B/32" in out
    assert "is a toy that was trained" not in out  # the notice is for real videos
    assert "never saw" not in out
    assert ("folders of images" in out) == (kind == "images")
    suffix = ".mp4" if kind == "mp4" else ""
    assert all((home / "videos" / f"{one}{suffix}").exists() for one in ids)
    tells_what_clustering_leaves(out, home)
    asks_for_no_order(out, home, split)
    makes_by_typing(out, home)


def tells_what_clustering_leaves(out, home):
    """Every plan by a folder of its own; the table has what `ttvr-eval` printed for it."""
    assert Image.open(home / "centers.png").width > 100
    evaluated = re.findall(r"^t2v\t(\S+)\t(\S+)\t(\S+)\t(\S+)", out, re.MULTILINE)
    folders = ["feats", *(f"feats-{plan.rpartition(',')[2]}" for plan in command.PLANS)]
    left = (12 * 16, 4 * 16, 4 * 8)
    for plan, folder, patches, found in zip(
        ("none", *command.PLANS), folders, left, evaluated, strict=True
    ):
        meta = Features.open(home / folder).meta
        assert meta["model"]["reduce"] == ([] if plan == "none" else [plan])
        cells = re.escape("  ".join(found)).replace(r"\ \ ", r"\s+")
        assert re.search(rf"^#\s+{plan}\s+{patches}\s+\d+\.\d\s+{cells}$", out, re.MULTILINE)


def asks_for_no_order(out, home, split):
    """Its sentences; and its ticks are those of the ranking that it printed."""
    sentences = (home / "queries.txt").read_text().splitlines()
    clips = dict(zip(split.captions, split.clips, strict=True))
    assert 0 < len(sentences) <= command.SENTENCES
    assert all(scene_of(clips[sentence].id).kind in command.STEADY for sentence in sentences)
    ranked = [line.split("\t") for line in out.splitlines() if line.count("\t") == 5]
    for number, sentence in enumerate(sentences):
        right = clips[sentence].id
        (tick,) = re.findall(rf"^# (.*?) +{right}  {sentence}$", out, re.MULTILINE)
        rows = ranked[command.TOP * number : command.TOP * (number + 1)]
        places = [cells[1] for cells in rows if cells[3] == right]
        assert tick == (f"\u2713 {places[0]}" if places else "\u2717")


def makes_by_typing(out, home):
    """What the demo does by itself is what the lines do that it shows; `.ci/run` types them all."""
    lines = typed(out)
    for line in lines:
        for words in line.split(" | "):
            path = [word for word in shlex.split(words) if "/" in word]
            assert all(word.startswith(f"{home}/") for word in path)
    made = {home / "queries.txt", *home.glob("videos/broken*"), *home.glob("videos/broken/*")}
    before = {path: path.read_bytes() for path in made if path.is_file()}
    assert len(before) == 2
    for path in before:
        path.unlink()
    own = [line for line in lines if not line.startswith("ttvr-")]
    shell = ["/bin/bash", "-ec", "\n".join(own)]
    subprocess.run(shell, env={"PATH": os.defpath}, check=True, capture_output=True)
    assert {path: path.read_bytes() for path in before} == before


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


def test_running_twice_keeps_what_is_there(run, monkeypatch):
    hide_ffmpeg(monkeypatch)
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


def test_a_session_goes_on_with_the_clips_that_are_there(run, monkeypatch):
    """Somebody installs ffmpeg because the demo said that there is none, or removes it."""
    with monkeypatch.context() as patch:
        hide_ffmpeg(patch)
        assert run("-o", "early")[0] == 0
    code, out, err = run("-o", "early")
    assert (code, err) == (0, "")
    assert "folders of images, which an earlier run drew" in out
    assert "--format images" in out
    assert run("-o", "late")[0] == 0
    hide_ffmpeg(monkeypatch)
    code, out, err = run("-o", "late")
    assert (code, out) == (5, "")
    assert err.startswith("ttvr-demo: cannot find ffmpeg")


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
    hide_ffmpeg(monkeypatch)
    monkeypatch.setattr(eval_command, "main", lambda argv: 4)
    code, _, err = run()
    assert code == 4
    assert re.fullmatch(r"ttvr-demo: `ttvr-eval .*` ended with exit code 4, expected 0\n", err)
    assert not Path("demo/hits.png").exists()
    shutil.rmtree("demo/videos")
    monkeypatch.setattr(command, "_BROKEN", {"images": 1 << 20})  # not broken at all
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
    Path("mine").write_text("mine")
    code, out, err = run("-o", "mine")
    assert (code, out) == (2, "")
    assert err == "ttvr-demo: mine is a file, expected the name of a folder\n"


def test_a_folder_of_somebody_else_is_left_alone(run):
    for name in ("queries.txt", "notes.txt"):
        own = Path("own", name)
        own.parent.mkdir(exist_ok=True)
        own.write_text("mine")
        for more in ([], ["--overwrite"]):
            code, out, err = run("-o", "own", *more)
            assert (code, out) == (2, "")
            assert "not the folder of a demo" in err
        assert [path.name for path in Path("own").iterdir()] == [name]
        assert own.read_text() == "mine"
        own.unlink()


def test_unexpected_ends_have_a_code():
    assert shell.Unexpected("x", 0, 3).exit_code == 1
    assert shell.Unexpected("x", 5, 0).exit_code == 5
