"""Recipes on the command line: listed, taken by name, their numbers beside measured ones."""

from __future__ import annotations

import argparse
import json

import numpy as np
import pytest
from tiny_training import colors, data

from ttvr import metrics
from ttvr.commands import _recipes, _train_seeds, train
from ttvr.commands import eval as evaluate
from ttvr.recipes import ENTRIES, Published, settings_of

NAME = "tc_mgc-msrvtt9k-b32"
ARGUMENTS = {"data": "msrvtt:9k", "val_split": "test", "limit": None, "eval_limit": None}


def call(main, *arguments):
    try:
        return main(list(arguments))
    except SystemExit as end:
        return end.code


def test_the_list_has_every_recipe_and_what_is_known(capsys):
    assert call(train.main, "--list-recipes") == 0
    out = capsys.readouterr().out
    rows = [line.split("\t") for line in out.splitlines() if not line.startswith("#")]
    assert [row[0] for row in rows[1:]] == list(ENTRIES)
    assert {len(row) for row in rows} == {6}
    assert next(row for row in rows if row[0] == NAME)[1:5] == [
        "msrvtt:9k",
        "test",
        "47.4",
        "410.1",
    ]
    assert "no published numbers are known here" in out
    assert call(train.main, "--list-recipes", "--json") == 0
    found = {row["recipe"]: row for row in json.loads(capsys.readouterr().out)}
    assert found[NAME]["published"]["v2t"] == {"R@1": 45.9, "R@5": 74.5, "R@10": 83.3}
    assert found["xpool-msvd-b32"]["published"] == {}
    assert found["xpool-msvd-b32"]["source"].startswith("Gorti")


def test_a_recipe_brings_its_settings_and_its_data(capsys):
    assert call(train.main, "--recipe", NAME, "--show-config", "--epochs", "2") == 0
    expected = {**settings_of(ENTRIES[NAME].recipe), "epochs": 2}
    assert json.loads(capsys.readouterr().out) == expected
    assert call(train.main, "--recipe", NAME, "--dry-run") == 2
    assert "msrvtt" in capsys.readouterr().err  # which has no split to validate on


WRONG = {
    "a misspelt name": (train.main, ["--recipe", "tc-mgc-msrvtt9k-b32"], NAME),
    "no data": (train.main, ["-o", "x"], "nothing to learn from: pass --data"),
    "published of no data": (
        evaluate.main,
        ["f", "--gt", "g", "--published", NAME],
        "--data msrvtt",
    ),
    "published of other data": (
        evaluate.main,
        ["f", "--data", "msrvtt:7k", "--published", NAME],
        "are of msrvtt:9k, test, not of msrvtt:7k, test",
    ),
    "published of another split": (
        evaluate.main,
        ["f", "--data", "msrvtt", "--split", "train", "--published", NAME],
        "not of msrvtt:9k, train",
    ),
}


@pytest.mark.parametrize(("main", "arguments", "match"), WRONG.values(), ids=WRONG)
def test_wrong_use_is_one_line(capsys, main, arguments, match):
    assert call(main, *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert match in err
    assert err.rstrip("\n").splitlines()[-1].startswith("ttvr-")


def found_of(name, recipe=None, **changes):
    args = argparse.Namespace(recipe=name, **{**ARGUMENTS, **changes})
    learned = data(name=ENTRIES[name].data, val=colors("val"))
    protocol = {"split": "test", "sha256": "0", "normalize": None, "seed": 0, "versions": {}}
    protocol |= {"captions": 8, "captioned_videos": 8, "candidates": 8, "missing": None}
    protocol |= {"coverage": {"found": 8, "expected": 8}, "selection": None}
    protocol["model"] = {"source": "x.pt", "fingerprint": "0", "head": "meanp"}
    protocol["preprocess"] = {"frames": 12, "sampler": "segment"}
    found = {**metrics.summary(np.eye(8), list(range(8))), "protocol": protocol}
    recipe = recipe or ENTRIES[name].recipe
    return {**found, **_recipes.beside(args, learned, recipe, found)}


def told_of(capsys, *settings, as_json=False, **changes):
    args = argparse.Namespace(json=as_json, seeds=1)
    _train_seeds.tell(args, [found_of(*settings, **changes)], ENTRIES[settings[0]].recipe)
    return capsys.readouterr().out


def test_training_ends_with_measured_and_published_rows(capsys):
    lines = told_of(capsys, NAME).splitlines()
    rows = {line.split("\t")[0]: line.split("\t")[1:] for line in lines if line[0] != "#"}
    assert rows["t2v"][0] == "100.0"
    assert rows["t2v_published"] == ["47.4", "74.8", "84.2", "2.0", "12.8", "-"]
    assert rows["v2t_published"] == ["45.9", "74.5", "83.3", "-", "-", "-"]
    assert rows["SumR_published"] == ["410.1"]
    assert lines[-1].startswith(f"# published: {NAME}, Jing et al.")
    assert "measured with" not in lines[-1]
    other = ENTRIES[NAME].recipe.__class__(**{**vars(ENTRIES[NAME].recipe), "epochs": 1})
    assert told_of(capsys, NAME, other).splitlines()[-1].endswith("measured with other epochs")
    text = told_of(capsys, NAME, limit=10)
    assert text.splitlines()[-1].endswith("measured with other limit")


def test_measured_on_a_part_of_the_split_is_said():
    assert "of the split" not in _recipes.comment(NAME)
    part = _recipes.comment(NAME, coverage={"found": 1, "expected": 1000})
    assert part.endswith("; measured on 1 of the split's 1000 videos: not comparable\n")
    whole = _recipes.comment(NAME, coverage={"found": 1000, "expected": 1000})
    assert whole == _recipes.comment(NAME)


@pytest.mark.parametrize(
    "changes", [{"val_split": None}, {"val_split": "val"}, {"eval_limit": 10}], ids=str
)
def test_numbers_of_another_split_are_not_shown(capsys, changes):
    assert "published" not in told_of(capsys, NAME, **changes)


def test_a_recipe_without_numbers_says_so(capsys):
    text = told_of(capsys, "xpool-msvd-b32")
    assert "_published" not in text
    assert text.splitlines()[-1].startswith(
        "# xpool-msvd-b32: no published numbers are known here; "
    )


def test_json_has_both(capsys):
    text = told_of(capsys, NAME, as_json=True)
    assert json.loads(text)["published"]["published"]["SumR"] == 410.1


def test_an_empty_part_is_left_out():
    assert Published(sum_r=1.5).as_json() == {"SumR": 1.5}
    assert Published().as_json() == {}
