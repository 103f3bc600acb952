"""Which parameter learns how fast, and the learning rate over the steps."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_state
from torch import nn

from ttvr.clip.model import build
from ttvr.errors import UsageError
from ttvr.heads.meanp import MeanP
from ttvr.losses import WordLoss
from ttvr.optim import SCHEDULES, BertAdam, is_frozen, parameter_groups, schedule
from ttvr.recipes import Recipe, from_settings
from ttvr.retriever import Retriever

RATES = {"lr": 1e-3, "clip_lr": 1e-5, "scale_lr_factor": 5.0, "weight_decay": 0.2}


def model():
    clip = build(tiny_state())
    made = Retriever(clip, MeanP(), recipe=Recipe(), source="x", activation="quick_gelu")
    made.head.extra = nn.Linear(4, 4)
    made.head.frame_embedding = nn.Parameter(torch.zeros(3, 4))
    made.auxiliary = WordLoss([5, 6, 7], clip.width)
    return made


def test_every_parameter_is_in_one_group():
    made = model()
    groups = parameter_groups(made.named_parameters(), **RATES)
    found = [id(tensor) for group in groups for tensor in group["params"]]
    assert sorted(found) == sorted(id(tensor) for tensor in made.parameters())
    assert len(set(found)) == len(found)
    assert len({group["name"] for group in groups}) == len(groups) == 5
    torch.optim.AdamW(groups)


def test_a_group_has_the_rate_and_decay_of_its_members():
    made = model()
    groups = parameter_groups(made.named_parameters(), **RATES)
    of = {id(tensor): group for group in groups for tensor in group["params"]}
    for name, tensor in made.named_parameters():
        group = of[id(tensor)]
        if name == "clip.logit_scale":
            assert group["peak_lr"] == pytest.approx(5e-5)
        else:
            assert group["peak_lr"] == (1e-5 if name.startswith("clip.") else 1e-3), name
        matrix = name.endswith((".weight", "_weight", "proj", "projection"))
        expected = matrix and "ln_" not in name and "embedding" not in name
        assert group["weight_decay"] == (0.2 if expected else 0.0), name


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5, 1.0])
def test_the_schedule_equals_its_formula(steps, warmup):
    rising = round(warmup * steps)
    found = [schedule(step, steps=steps, warmup=warmup) for step in range(steps)]
    for step, rate in enumerate(found):
        if step < rising:
            expected = (step + 1) / rising
        else:
            expected = 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))
        assert rate == pytest.approx(expected)
    assert all(0 < rate <= 1 for rate in found)
    assert max(found) == 1
    assert found[rising:] == sorted(found[rising:], reverse=True)


def test_the_first_rates_rise_and_the_last_ones_are_small():
    found = [schedule(step, steps=1000, warmup=0.1) for step in range(1000)]
    assert found[:3] == pytest.approx([0.01, 0.02, 0.03])
    assert found[99] == found[100] == 1
    assert found[550] == pytest.approx(0.5)
    assert found[999] < 1e-5


def test_what_decays_is_as_the_recipe_says():
    made = model()
    names = {id(tensor): name for name, tensor in made.named_parameters()}

    def decayed(decay):
        groups = parameter_groups(made.named_parameters(), **RATES, decay=decay)
        return {names[id(t)] for group in groups if group["weight_decay"] for t in group["params"]}

    assert decayed("no_biases") == {name for name in names.values() if "bias" not in name}
    assert {"clip.logit_scale", "clip.visual.ln_pre.weight"} < decayed("no_biases")
    assert "clip.visual.transformer.resblocks.0.attn.in_proj_bias" not in decayed("no_biases")
    assert decayed("all") == set(names.values())
    default = parameter_groups(made.named_parameters(), **RATES)
    assert default == parameter_groups(made.named_parameters(), **RATES, decay="matrices")


BEFORE_BLOCKS = {
    *("clip.visual.conv1.weight", "clip.visual.class_embedding"),
    *("clip.visual.positional_embedding", "clip.visual.ln_pre.weight", "clip.visual.ln_pre.bias"),
    *("clip.token_embedding.weight", "clip.positional_embedding"),
}


def test_layers_are_frozen_by_the_published_rule():
    names = [name for name, _ in model().named_parameters()]
    assert {name for name in names if is_frozen(name, 0)} == BEFORE_BLOCKS
    first = {name for name in names if ".resblocks.0." in name}
    assert {name for name in names if is_frozen(name, 1)} == BEFORE_BLOCKS | first
    assert any(name.startswith("clip.visual.transformer") for name in first)
    assert any(name.startswith("clip.transformer") for name in first)
    assert not any(is_frozen(name, None) for name in names)
    assert not is_frozen("reducers.6.embedding", 12)


GOLDEN = Path(__file__).parents[2] / "shared" / "golden" / "centerclip" / "lr_schedule.npz"


@pytest.mark.skipif(not GOLDEN.exists(), reason="no golden files here")
@pytest.mark.parametrize(("steps", "lr"), [(5475, 0.005), (625, 0.01)])
def test_centerclip_s_schedule_is_the_authors(steps, lr):
    stored = np.load(GOLDEN)[f"total{steps}_warm0.1_lr{lr:g}_coef0.001"]
    found = np.array(
        [schedule(step, steps=steps, warmup=0.1, rule="centerclip", lr=lr) for step in range(steps)]
    )
    np.testing.assert_allclose(lr * 1e-3 * found, stored[:, 0], rtol=1e-6)
    np.testing.assert_allclose(lr * found, stored[:, 1], rtol=1e-6)


def test_warmup_cosine_jumps_where_its_rise_ends():
    found = [schedule(step, steps=1000, warmup=0.1, rule="warmup_cosine") for step in range(1000)]
    assert found[:2] == pytest.approx([0, 0.01])
    assert found[99] == pytest.approx(0.99)
    assert found[100] == pytest.approx(0.5 * (1 + math.cos(0.1 * math.pi)), abs=1e-12)
    assert found[100] == pytest.approx(0.976, abs=5e-4)
    assert found[999] == pytest.approx(0.5 * (1 + math.cos(0.999 * math.pi)))


def test_linear_falls_in_a_line():
    found = [schedule(step, steps=20, warmup=0.1, rule="linear") for step in range(20)]
    assert found == pytest.approx([0.5, 1.0, *(part / 18 for part in range(18, 0, -1))])


@pytest.mark.parametrize("rule", SCHEDULES)
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.33, 1.0])
@pytest.mark.parametrize("lr", [0.0, 1e-3])
def test_every_schedule_stays_in_its_range(rule, warmup, lr):
    for steps in (1, 2, 7):
        for step in range(steps):
            rate = schedule(step, steps=steps, warmup=warmup, rule=rule, lr=lr)
            assert 0 <= rate <= 1
            assert rate > 0 or rule == "warmup_cosine" or lr == 0


def test_a_recipe_names_the_rules_that_there_are():
    for rule in SCHEDULES:
        assert from_settings({"schedule": rule}).schedule == rule
    with pytest.raises(UsageError, match=", ".join(SCHEDULES)):
        from_settings({"schedule": "step"})
    with pytest.raises(UsageError, match="min_scale is at most max_scale"):
        from_settings({"min_scale": 200.0})


def test_bert_adam_is_its_formula():
    """The rule of pytorch-pretrained-BERT, number by number in float64."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(5, generator=generator, dtype=torch.float64) for _ in range(2)]
    kept = [nn.Parameter(tensor.clone()) for tensor in start]
    unused = nn.Parameter(torch.ones(2))
    groups = [
        {"params": [kept[0], unused], "weight_decay": 0.2},
        {"params": [kept[1]], "weight_decay": 0.0},
    ]
    optimizer = BertAdam(groups, betas=(0.9, 0.98), eps=1e-6, max_norm=1.0)
    expected = [tensor.tolist() for tensor in start]
    mean, square = ([[0.0] * 5 for _ in range(2)] for _ in range(2))
    for step in range(4):
        for number, parameter in enumerate(kept):
            size = (3.0, 0.1)[number]  # one beyond the norm, one below
            gradient = size * torch.randn(5, generator=generator, dtype=torch.float64)
            parameter.grad, lr = gradient.clone(), 0.01 * (step + 1)
            optimizer.param_groups[number]["lr"] = lr
            norm = math.sqrt(sum(value**2 for value in gradient.tolist()))
            for at, value in enumerate(gradient.tolist()):
                g = value * min(1.0, 1.0 / (norm + 1e-6))
                mean[number][at] = 0.9 * mean[number][at] + 0.1 * g
                square[number][at] = 0.98 * square[number][at] + 0.02 * g * g
                update = mean[number][at] / (math.sqrt(square[number][at]) + 1e-6)
                update += (0.2, 0.0)[number] * expected[number][at]
                expected[number][at] -= lr * update
        optimizer.step()
    for parameter, values in zip(kept, expected, strict=True):
        assert parameter.tolist() == pytest.approx(values, rel=1e-12)
    assert unused.tolist() == [1.0, 1.0]
