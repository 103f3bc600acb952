"""ttvr-show: what it reads, what it refuses, and how it ends."""

from __future__ import annotations

import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

from ttvr import video
from ttvr.commands import show as command


def hit(path, rank=1, time=0.5, **more):
    return {"rank": rank, "id": f"v{rank}", "path": str(path), "score": 0.31, "time": time, **more}


def line(*hits, query=0, text="a dog", **more):
    return json.dumps({"query": query, "text": text, "hits": list(hits), **more}) + "\n"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    video.write(path, np.full((8, 48, 64, 3), 120, np.uint8), fps=4)
    return path


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*argv):
    try:
        return command.main([str(one) for one in argv])
    except SystemExit as stop:
        return stop.code


@pytest.mark.parametrize("name", ["hits.png", "hits.jpg", "hits.JPEG", "hits.webp"])
def test_a_sheet_is_written(work, clip, capsys, name):
    (work / "hits.jsonl").write_text(line(hit(clip), hit(clip, 2, None)))
    assert run("hits.jsonl", "-o", name, "--width", "900") == 0
    captured = capsys.readouterr()
    assert captured.out == f"{name}\n"
    with Image.open(work / name) as image:
        assert image.width == 900
    assert sorted(path.name for path in work.iterdir()) == sorted(["hits.jsonl", name])


def test_stdin_and_summary(work, clip, capsys, monkeypatch):
    lines = line(hit(clip), text="caf\u00e9") + "\n" + line(query=1, id="q7")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    assert run("-", "-o", "hits.png", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    with Image.open(work / "hits.png") as image:
        assert [summary["width"], summary["height"]] == list(image.size)
    assert (summary["queries"], summary["thumbnails"], summary["failed"]) == (2, 1, [])


def test_a_video_that_fails_is_listed_and_exit_is_3(work, clip, capsys):
    (work / "h").write_text(line(hit(clip), hit("gone.mp4", 2)))
    assert run("h", "-o", "hits.png", "--json") == 3
    captured = capsys.readouterr()
    failed = json.loads(captured.out)["failed"]
    assert failed == [{"path": "gone.mp4", "error": "invalid_data", "detail": "no such file"}]
    assert "gone.mp4: invalid_data: no such file" in captured.err
    assert (work / "hits.png").exists()


def test_only_the_top_hits(work, clip, capsys):
    (work / "h").write_text(line(*(hit(clip, n) for n in range(1, 5))))
    assert run("h", "-o", "hits.png", "--json", "-k", "3") == 0
    assert json.loads(capsys.readouterr().out)["thumbnails"] == 3


def test_what_is_there_is_kept_unless_told(work, clip, capsys):
    (work / "h").write_text(line(hit(clip)))
    (work / "hits.png").write_text("mine")
    assert run("h", "-o", "hits.png") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (work / "hits.png").read_text() == "mine"
    assert run("h", "-o", "hits.png", "--overwrite") == 0
    Image.open(work / "hits.png").close()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["h"], "-o is missing"),
        (["h", "-o", "notes.txt"], "expected one of .png"),
        (["h", "-o", "none/hits.png"], "no folder none"),
        (["h", "-o", "hits.png", "--columns", "0"], "not a whole number of 1 or more"),
        (["h", "-o", "hits.png", "--columns", "40"], "fewer --columns"),
        (["h", "-o", "hits.png", "--width", "100000"], "at most 16383"),
        (["tall", "-o", "hits.webp"], "at most 16383"),
        (["taller", "-o", "hits.jpg"], "at most 65000"),
    ],
)
def test_wrong_use_is_exit_2(work, clip, capsys, argv, message):
    hits = {"h": 1, "tall": 100, "taller": 400}
    for name, count in hits.items():
        (work / name).write_text(line(hit(clip)) * count)
    assert run(*argv) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert {path.name for path in work.iterdir()} == set(hits)


@pytest.mark.parametrize(
    "broken",
    [
        "0\t1\t0.31\tv1\t0.5\tv1.mp4",
        "[]",
        '{"query":0,"text":"a"}',
        '{"query":0,"text":"a","hits":[{"rank":1}]}',
        '{"query":0,"text":"a","hits":7}',
        '{"query":0,"text":3,"hits":[]}',
        line(hit("v.mp4", time="late")).strip(),
        line(hit("v.mp4", time=-1)).strip(),
        line(hit("v.mp4", score=float("nan"))).strip(),
        line(hit("v.mp4", score=None)).strip(),
        line(hit("v.mp4", score=10**400)).strip(),
        line(hit("v.mp4", rank=float("inf"))).strip(),
        line(hit("v.mp4", rank=1.5)).strip(),
        line(hit("v.mp4", rank=0)).strip(),
        line(hit("v.mp4", rank=True)).strip(),
        "[" * 100_000,
        "\udcff",
    ],
    ids=lambda broken: broken[:40],
)
def test_lines_that_are_wrong_are_named(work, capsys, broken):
    content = (line() + broken + "\n").encode("utf-8", "surrogateescape")
    (work / "h").write_bytes(content)
    assert run("h", "-o", "hits.png") == 1
    assert "h:2: not a line of `ttvr-rank --json`" in capsys.readouterr().err
    assert not (work / "hits.png").exists()


def test_nothing_to_show(work, capsys):
    (work / "h").write_text("\n")
    assert run("h", "-o", "hits.png") == 1
    assert "no queries" in capsys.readouterr().err
    assert run("gone", "-o", "hits.png") == 1
