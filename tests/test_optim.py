"""Which parameter learns how fast, and the learning rate over the steps."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import tiny_state
from torch import nn

from ttvr.clip.model import build
from ttvr.heads.meanp import MeanP
from ttvr.losses import WordLoss
from ttvr.optim import parameter_groups, schedule
from ttvr.recipes import Recipe
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
