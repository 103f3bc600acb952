"""`ttvr-weights convert --system`: streams, exit codes, and a run that other commands take."""

from __future__ import annotations

import json
from pathlib import Path

import official_files
import pytest
import torch
from official_files import Case
from test_extract import draw
from tiny import tiny_state

from ttvr import retriever
from ttvr.commands import eval as evaluate
from ttvr.commands import extract, rank
from ttvr.commands.weights import main
from ttvr.systems import SYSTEMS

SEQ_TRANSF = Case("clip4clip", "seq_transf", official_files.TEMPORAL)
SEQ_LSTM = Case("clip4clip", "seq_lstm", official_files.LSTM, official_files.UNUSED_POSITIONS)
XCLIP = Case("xclip", "xclip", {**official_files.XCLIP, **official_files.TEMPORAL})


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capsys):
    """Run a command: exit code, stdout, stderr."""

    def call(*argv, of=main):
        try:
            code = of([str(word) for word in argv])
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, err

    return call


def write(name, case, **options):
    torch.save(official_files.checkpoint(case, **options), name)
    return name


def test_from_the_authors_file_to_ranked_videos(run):
    """Convert, extract, rank and evaluate, with nothing said but the system and the run."""
    write("pytorch_model.bin.4", SEQ_TRANSF, vocabulary=49408)
    code, out, err = run(
        *("convert", "--system", "clip4clip", "pytorch_model.bin.4", "-o", "run.pt"),
        *("--set", "frames=6"),
    )
    assert (code, out) == (0, "run.pt\n")
    assert err == (
        "ttvr-weights: CLIP4Clip: ViT-w64-p8-l2, head seq_transf, layers=2, positions=30, reduce "
        "none, 6 frames of 1 per second (linspace), 32 words\n"
    )
    for n in range(2):
        draw(Path("videos") / f"{n}.mp4", seed=n)
    assert run("videos", "-w", "run.pt", "-o", "feats", "-q", of=extract.main)[0] == 0
    meta = json.loads(Path("feats/meta.json").read_text())
    assert meta["model"]["head"] == "seq_transf"
    assert meta["model"]["space"] == retriever.load("run.pt").identity()["space"]
    code, out, _ = run("--query", "a dog", "feats", "--json", "-q", of=rank.main)
    assert code == 0
    hits = json.loads(out)["hits"]
    assert sorted(hit["id"] for hit in hits) == ["0", "1"]
    Path("pairs.tsv").write_text("a dog\t0\na cat\t1\n")
    code, out, err = run("feats", "--gt", "pairs.tsv", "--json", "-q", of=evaluate.main)
    assert (code, err) == (0, "")
    assert json.loads(out)["videos"] == 2


def test_json_and_what_is_left_out(run):
    write("a.bin", SEQ_LSTM)
    code, out, err = run("convert", "--system", "clip4clip", "a.bin", "-o", "run.pt", "--json")
    assert code == 0
    assert err.splitlines()[1:] == [
        "ttvr-weights: left out, as no score depends on them: 1 tensor "
        "(frame_position_embeddings.weight)"
    ]
    facts = json.loads(out)
    identity = retriever.load("run.pt").identity()
    assert {key: facts[key] for key in ("arch", "fingerprint", "base", "space")} == {
        key: identity[key] for key in ("arch", "fingerprint", "base", "space")
    }
    assert facts["clip_parameters"] == sum(t.numel() for t in tiny_state().values())
    assert facts["head_parameters"] == 8 * 32 * 32 + 8 * 32
    assert facts["unused"] == ["frame_position_embeddings.weight"]
    assert (facts["system"], facts["head"], facts["fps"]) == ("clip4clip", "seq_lstm", 1.0)
    assert run("convert", "--system", "clip4clip", "a.bin", "-o", "b.pt", "-q") == (0, "b.pt\n", "")


def test_options_go_into_the_run(run):
    write("a.bin", SEQ_TRANSF)
    argv = ("convert", "--system", "centerclip", "a.bin", "-o", "run.pt", "-q", "--heads", 4)
    code, _, err = run(*argv)
    assert (code, "pass --reduce" in err) == (2, True)
    code, out, _ = run(
        *argv,
        *("--reduce", "kmedoids@1:3,9,segment_mask=last", "--set", "words=20"),
        *("--set", "sampler=linspace", "--set", "fps=none", "--json"),
    )
    assert code == 0
    facts = json.loads(out)
    recipe = retriever.load("run.pt").recipe
    assert recipe.reduce == ("kmedoids@1:3,9,segment_mask=last",)
    assert facts["reduce"] == list(recipe.reduce)
    assert (recipe.words, recipe.sampler, recipe.fps) == (20, "linspace", None)
    assert dict(recipe.head_options) == {"heads": 4, "layers": 2, "positions": 30}


def test_a_file_of_another_system(run):
    write("xclip.bin", XCLIP)
    code, out, err = run("convert", "--system", "clip4clip", "xclip.bin", "-o", "run.pt")
    assert (code, out) == (4, "")
    assert err.startswith("ttvr-weights: xclip.bin: not a checkpoint of SeqTransf: missing nothing")
    assert "frame_mat_weight" in err
    assert err.endswith("3 more; it looks like one of X-CLIP: --system xclip\n")
    assert not Path("run.pt").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"<html>no</html>"])
def test_a_file_that_is_no_checkpoint(content, run):
    Path("a.bin").write_bytes(content)
    code, out, err = run("convert", "--system", "clip4clip", "a.bin", "-o", "run.pt")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "a.bin" in err


def test_a_run_that_is_there_is_kept(run):
    write("a.bin", SEQ_TRANSF)
    Path("run.pt").write_bytes(b"mine")
    code, _, err = run("convert", "--system", "clip4clip", "a.bin", "-o", "run.pt")
    assert (code, "pass --overwrite" in err) == (2, True)
    assert Path("run.pt").read_bytes() == b"mine"
    argv = ("convert", "--system", "clip4clip", "a.bin", "-o", "run.pt", "--overwrite", "-q")
    assert run(*argv)[0] == 0
    assert retriever.load("run.pt").head_name == "seq_transf"


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--system", "clip5clip", "-o", "b.pt"], "invalid choice: 'clip5clip'"),
        (["--system", "clip4clip", "-o", "b.npz"], "b.npz: the suffix of a run must be .pt"),
        (["--system", "clip4clip", "-o", "b.pt", "--dtype", "float16"], "--dtype has no meaning"),
        (["--system", "clip4clip", "-o", "b.pt", "--note", "x"], "--note has no meaning with --sy"),
        (["-o", "b.pt", "--heads", "4"], "--heads needs --system"),
        (["-o", "b.pt", "--reduce", "none"], "--reduce needs --system"),
        (["-o", "b.pt", "--set", "frames=4"], "--set needs --system"),
        (["--system", "clip4clip", "-o", "b.pt", "--heads", "0"], "'0' is not a whole number"),
        (["--system", "clip4clip", "-o", "b.pt", "--set", "tea=1"], "no setting 'tea'"),
        (["--system", "clip4clip", "-o", "b.pt", "--reduce", "cut@1:2"], "no reducer 'cut'"),
        (
            ["--system", "clip4clip", "-o", "b.pt", "--set", "frames=4", "--set", "frames=5"],
            "frames is given twice",
        ),
    ],
)
def test_wrong_use_is_exit_2_and_one_line(argv, text, run, place):
    code, out, err = run("convert", "a.bin", *argv)
    assert (code, out) == (2, "")
    assert text in err
    assert err.count("\n") == 1
    assert list(place.iterdir()) == []


def test_help_shows_every_system(run):
    code, out, err = run("convert", "--help")
    assert (code, err) == (0, "")
    assert all(name in out for name in SYSTEMS)
    examples = out.split("examples:")[1].splitlines()
    assert sum(line.startswith("  ttvr-weights convert ") for line in examples) == 4


def test_json_of_a_clip(run):
    torch.save(tiny_state(), "a.pt")
    code, out, _ = run("convert", "a.pt", "-o", "b.npz", "--json")
    assert code == 0
    facts = json.loads(out)
    assert facts["path"] == "b.npz"
    assert facts["arch"] == "ViT-w64-p8-l2"
