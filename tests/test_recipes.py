"""Recipes by name: each can be built, learns, and says where it comes from."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import tiny_state
from tiny_training import data

from ttvr import plugins, reducers
from ttvr.datasets import load
from ttvr.errors import UsageError
from ttvr.recipes import ENTRIES, RECIPES, from_settings, named, settings_of
from ttvr.systems import SYSTEMS
from ttvr.train import rehearse

ROOT = Path(__file__).parents[1]
PUBLISHED = {name: entry for name, entry in ENTRIES.items() if name != "ttvr-tiny"}
PATCHES = {"ViT-B/32": 49, "ViT-B/16": 196}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    path = tmp_path_factory.mktemp("start") / "start.pt"
    torch.save(tiny_state(image=32, vocabulary=49408), path)
    return str(path)


def system(name):
    return name.split("-")[0]


def toy(recipe, weights):
    """The same rules with sizes that take no time; a plan acts in block 1 of 2, on 2 segments."""
    plans = (re.sub(r"@\d+:\d+(,\d+)?", r"@1:2\1", text) for text in recipe.reduce)
    return replace(
        recipe,
        weights=weights,
        reduce=tuple(re.sub(r"(@1:2),\d+", r"\1,4", text) for text in plans),
        frames=4,
        train_frames=4,
        words=8,
        batch_size=2,
        epochs=1,
        initial_scale=1.0,  # of a larger one, fp16's first steps overflow
    )


def kinds(of):
    """Recipes of a system that differ in what learns, not in data, tower and sizes."""
    found = {}
    for name, entry in PUBLISHED.items():
        if system(name) == of:
            key = repr(toy(replace(entry.recipe, lr=1.0, clip_lr=1.0), ""))
            found.setdefault(key, entry.recipe)
    return list(found.values())


@pytest.mark.parametrize("of", sorted({system(name) for name in PUBLISHED}))
def test_every_recipe_takes_a_step(start, of):
    """On a tiny tower, with eight words: the settings of a system go together."""
    for recipe in kinds(of):
        found = rehearse(toy(recipe, start), data(), device="cpu")
        assert 0 < found["loss"] < float("inf")
        assert found["grad_norm"] > 0


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_plan_fits_its_tower(name):
    recipe = PUBLISHED[name].recipe
    plan = reducers.build(
        reducers.parse(recipe.reduce),
        layers=12,
        width=768,
        patches=PATCHES[recipe.weights],
        frames=(recipe.frames, recipe.train_frames or recipe.frames),
    )
    if match := re.search(r"-(?:kmedoids|spectral|sparse|pooling)-(\d+)$", name):
        assert plan.left_of(recipe.frames).frames == int(match[1])
    else:
        assert plan.left_of(recipe.frames) == (recipe.frames, PATCHES[recipe.weights], False)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_head_fits_the_sizes_of_its_recipe(name):
    recipe = PUBLISHED[name].recipe
    plan = reducers.parse(recipe.reduce)
    T = next((stage.segments for stage in plan if stage.segments), recipe.frames)
    with torch.device("meta"):
        head = plugins.construct(
            plugins.load("heads", recipe.head),
            dict(recipe.head_options),
            width=512,
            frames=T,
            words=recipe.words,
        )
    assert head.most_frames is None or head.most_frames >= T
    assert recipe.words <= 77


def test_names_say_what_a_recipe_is_of():
    for name, entry in PUBLISHED.items():
        of, dataset, tower = name.split("-")[:3]
        assert of in (*SYSTEMS, "cret")
        assert entry.data.replace(":", "") == dataset
        assert entry.recipe.weights == {"b32": "ViT-B/32", "b16": "ViT-B/16"}[tower]


def test_every_recipe_has_data_a_source_and_settings_in_range():
    for name, entry in ENTRIES.items():
        dataset = load(entry.data)
        assert dataset.name == entry.data, name
        assert {"train", entry.split} <= set(dataset.splits), name
        assert entry.source
        assert from_settings(settings_of(entry.recipe)) == entry.recipe == RECIPES[name]


def test_published_numbers_are_those_that_are_known_here():
    known = {name: entry.published.as_json() for name, entry in ENTRIES.items()}
    assert {system(name) for name, found in known.items() if found} == {"cret", "tc_mgc", "xclip"}
    assert known["tc_mgc-msrvtt9k-b32"]["t2v"]["R@1"] == 47.4
    assert known["tc_mgc-msrvtt9k-b16"] == {"SumR": 418.9}
    assert list(known["cret-lsmdc-b32"]["t2v"].values()) == [10.0, 24.9, 33.4, 34]
    whole = known["tc_mgc-msrvtt9k-b32"]
    parts = [whole[way][measure] for way in ("t2v", "v2t") for measure in ("R@1", "R@5", "R@10")]
    assert sum(parts) == pytest.approx(whole["SumR"], abs=0.31)  # of six rounded numbers


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("xpool-msvd-b32", "AdamW's betas and eps"),
        ("clip4clip-activitynet-b32-meanp", "epochs, batch size and number of frames"),
    ],
)
def test_notes_say_what_is_not_known(name, what):
    assert what in ENTRIES[name].note


def test_a_misspelt_name_finds_the_nearest():
    with pytest.raises(UsageError, match="tc_mgc-msrvtt9k-b32"):
        named("tc-mgc-msrvtt9k-b32")
    assert named("ttvr-tiny") is ENTRIES["ttvr-tiny"]


def test_reading_recipes_is_cheap():
    code = "import ttvr.recipes, sys; assert not {'torch', 'numpy'} & set(sys.modules), sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
