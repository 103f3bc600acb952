"""`ttvr-train`: settings, what it prints, what it writes, how it ends."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_training import write_start

from ttvr import retriever
from ttvr.commands.train import main
from ttvr.recipes import RECIPES, Recipe, from_settings, parse, settings_of

ROOT = Path(__file__).parents[1]
SMALL = ["--limit", 8, "--eval-limit", 4, "-b", 4, "--frames", 2, "--device", "cpu"]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return write_start(tmp_path_factory.mktemp("start"))


def call(*arguments):
    try:
        return main(["--data", "synthetic", *map(str, arguments)])
    except SystemExit as end:
        return end.code


def shown(capsys, *arguments):
    assert call("--show-config", *arguments) == 0
    return json.loads(capsys.readouterr().out)


def test_the_settings_come_from_recipe_set_and_flags(capsys):
    assert shown(capsys) == settings_of(Recipe())
    assert shown(capsys, "--recipe", "ttvr-tiny") == settings_of(RECIPES["ttvr-tiny"])
    found = shown(
        capsys,
        *("--recipe", "ttvr-tiny", "--set", "betas=0.8,0.9", "--set", "train_frames=none"),
        *("--lr", "3e-4", "--epochs", 2, "-b", 7, "--seed", 5, "--precision", "fp32"),
        *("--set", "head_options=gain=2,deep=true", "--set", "word_loss=2", "--frames", 3),
        *("-w", "x.pt", "--set", "checkpointing=true", "--accumulate", 4),
    )
    changed = {
        "accumulate": 4,
        "checkpointing": True,
        "betas": [0.8, 0.9],
        "train_frames": None,
        "lr": 3e-4,
        "epochs": 2,
        "batch_size": 7,
        "seed": 5,
        "precision": "fp32",
        "head_options": [["gain", 2], ["deep", True]],
        "word_loss": 2,
        "frames": 3,
        "weights": "x.pt",
    }
    assert found == {**settings_of(RECIPES["ttvr-tiny"]), **changed}


def test_showing_settings_needs_no_torch():
    code = (
        "import sys; from ttvr.commands.train import main\n"
        "assert main(['--data', 'synthetic', '--show-config', '--set', 'lr=1']) == 0\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_the_help_is_of_training(capsys):
    assert call("--help") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "scratch:SIZES" in told
    assert "the weights were trained with" not in told  # it is the recipe that says


WRONG = {
    "an unknown setting": (["--set", "learning_rate=1"], "batch_size"),
    "no value": (["--set", "lr"], "name=value"),
    "text for a number": (["--set", "lr=fast"], "lr is float, got 'fast'"),
    "a fraction of an epoch": (["--set", "epochs=1.5"], "epochs is int"),
    "no epochs": (["--set", "epochs=0"], "at least 1"),
    "no part of a batch": (["--set", "accumulate=0"], "accumulate is a number of at least 1"),
    "a truth value": (["--set", "frames=true"], "frames is int, got True"),
    "a number for a truth value": (["--set", "checkpointing=1"], "checkpointing is bool, got 1"),
    "none where something is due": (["--set", "lr=none"], "lr is float"),
    "one beta": (["--set", "betas=0.9"], "betas are two numbers"),
    "a beta of 1": (["--set", "betas=0.9,1"], "betas are two numbers"),
    "a rate below 0": (["--lr", "-1"], "lr is a number of at least 0"),
    "a rate that is none": (["--set", "lr=nan"], "lr is"),
    "a rate that is infinite": (["--set", "lr=1e999"], "lr is a number of at most"),
    "a rate beyond floats": (["--lr", "1", "--set", f"clip_lr={'9' * 400}"], "clip_lr is"),
    "more epochs than fit": (["--set", f"epochs={'9' * 400}"], "epochs is a number of at most"),
    "a seed that no generator takes": (["--set", f"seed={1 << 63}"], "seed is a number of at most"),
    "a seed below 0": (["--set", "seed=-1"], "seed is a number of at least 0"),
    "an unknown precision": (["--set", "precision=fp8"], "fp32, bf16, fp16"),
    "too much warm-up": (["--set", "warmup=2"], "warmup is a number of at most 1"),
    "no norm": (["--set", "max_grad_norm=0"], "above 0"),
    "said twice": (["--set", "epochs=2", "--epochs", "3"], "given twice"),
    "said twice by --set": (["--set", "epochs=2", "--set", "epochs=3"], "given twice"),
    "an unknown recipe": (["--recipe", "large"], "ttvr-tiny"),
    "no output": ([], "-o"),
    "test chooses, and val": (["--select", "test", "--val-split", "val"], "goes with --val-split"),
}


@pytest.mark.parametrize(("arguments", "match"), WRONG.values(), ids=WRONG)
def test_wrong_settings_are_wrong_use(capsys, arguments, match):
    assert call(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert match in captured.err


def written(name, value):
    if name == "head_options":
        return ",".join(f"{option}={choice}" for option, choice in value)
    separator = " " if name == "reduce" else ","
    return separator.join(map(str, value)) if isinstance(value, list) else str(value)


@pytest.mark.parametrize("recipe", [Recipe(), *RECIPES.values()], ids=["defaults", *RECIPES])
def test_settings_survive_json_and_text(recipe):
    stored = json.loads(json.dumps(settings_of(recipe)))
    assert from_settings(stored) == recipe
    for name, value in stored.items():
        text = written(name, value)
        assert from_settings(dict([parse(f"{name}={text}")]), recipe) == recipe


def test_a_dry_run_writes_nothing(tmp_path, capsys, start, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("--dry-run", "-w", start, *SMALL, "-o", tmp_path / "run") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] == 10
    assert found["batch"]["frames"] == [4, 2, 16, 16, 3]
    assert found["loss"] == found["nce"] > 0
    assert list(tmp_path.iterdir()) == []


def test_a_training_from_start_to_end(tmp_path, capsys, start):
    run = tmp_path / "run"
    command = ["-w", start, *SMALL, "--epochs", 2, "--set", "clip_lr=1e-4", "-o", run]
    assert call(*command) == 0
    captured = capsys.readouterr()
    table = captured.out.splitlines()
    assert table[0].split("\t") == ["direction", "R@1", "R@5", "R@10", "MdR", "MnR", "RSum"]
    assert [line.split("\t")[0] for line in table[1:4]] == ["t2v", "v2t", "SumR"]
    protocol = table[4]
    for part in (
        "split synthetic/val sha256:",
        "queries 4 captions, 4 videos",
        "coverage 4/4 videos",
        "ties t2v 0.0 %, v2t 0.0 % (average)",
        "selection best on val, after step",
        "seed 0",
    ):
        assert part in protocol
    assert f"-w {run / 'best.pt'}" in captured.err
    names = {"recipe.json", "log.jsonl", "last.pt", "best.pt", "results.jsonl", ".lock"}
    assert {path.name for path in run.iterdir()} == names

    assert call(*command, "--json", "-q") == 0  # it is over: nothing but the result again
    captured = capsys.readouterr()
    assert captured.err == ""
    again = json.loads(captured.out)
    assert f"{again['t2v']['RSum']:.1f}" == table[1].split("\t")[-1]
    assert f"split synthetic/val sha256:{again['protocol']['sha256']} | " in protocol
    chosen = again["protocol"]["selection"]
    assert (chosen["select"], chosen["on"], chosen["steps"]) == ("best", "val", 4)
    assert f"selection best on val, after step {chosen['step']} of 4 | seed 0 | ttvr " in protocol
    trained = {**chosen, "seed": again["protocol"]["seed"]}
    assert retriever.load(run / "best.pt").trained == trained
    assert again["protocol"]["model"]["source"] == str(run / "best.pt")
    assert {*again["protocol"]["versions"]} == {"ttvr", "torch", "numpy", "python"}

    (line,) = (run / "results.jsonl").read_text().splitlines()  # of both calls
    stored = json.loads(line)
    assert {k: stored[k] for k in again} == again
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", stored["date"])
    assert stored["recipe"] == json.loads((run / "recipe.json").read_text())
    (run / "results.jsonl").unlink()  # killed before it was written
    assert call(*command, "-q") == 0
    capsys.readouterr()
    assert json.loads((run / "results.jsonl").read_text())["t2v"] == again["t2v"]

    assert call(*command[:-2], "--lr", "0.5", "-o", run) == 4
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "lr is 0.0001, now 0.5" in error
    assert call(*command, "--no-resume") == 2


def test_too_few_clips_for_a_batch(tmp_path, capsys, start):
    command = ["-w", start, "--limit", 3, "-b", 4, "--device", "cpu", "-o", tmp_path / "run"]
    assert call(*command) == 2
    assert "pass a smaller --batch-size" in capsys.readouterr().err


def test_an_interruption_saves_the_state(tmp_path, start):
    """As at a terminal: the command tells that it goes on from there."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "ttvr", "train", "--data", "synthetic", "-w", start]
    command += [*map(str, SMALL), "--epochs", "100", "--progress", "json", "-o", str(run)]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # or a child may ignore it
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    for line in process.stderr:
        if '"event"' in line:  # the first step is about to be taken
            break
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert rest.endswith("interrupted; the same command run again goes on from here\n")
    assert (run / "last.pt").exists()
