"""What `--reduce` means: read, checked against a model's numbers, written in one way."""

from __future__ import annotations

import subprocess
import sys
from inspect import signature
from pathlib import Path

import pytest

from ttvr import plugins
from ttvr.errors import UsageError
from ttvr.reducers import Stage, build, parse

B32 = {"layers": 12, "width": 16, "patches": 49}


def plan(*texts, frames=(12,), **sizes):
    return build(parse(texts), **{**B32, **sizes}, frames=frames)


def test_reading_needs_no_torch():
    code = (
        "import sys; from ttvr.reducers import parse; parse(['kmedoids@6:4,49,metric=cosine']);"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


READ = {
    "kmedoids@6:4,49": Stage("kmedoids", 6, 4, 49, ()),
    "pooling@6:4": Stage("pooling", 6, 4, None, ()),
    "pooling@6:4,mask=true": Stage("pooling", 6, 4, None, (("mask", True),)),
    "token_shift": Stage("token_shift", None, None, None, ()),
    "patch_shift@10": Stage("patch_shift", 10, None, None, ()),
    "temporal_shift,mask=true": Stage("temporal_shift", None, None, None, (("mask", True),)),
    "kmedoids@0:1,1,p=1,metric=cosine,rule=medoid": Stage(
        "kmedoids", 0, 1, 1, (("metric", "cosine"), ("p", 1), ("rule", "medoid"))
    ),
    "spectral@6:4,49,sigma=2.5e1,neighbours=none": Stage(
        "spectral", 6, 4, 49, (("neighbours", None), ("sigma", 25.0))
    ),
}


@pytest.mark.parametrize("text", READ)
def test_reading(text):
    assert parse([text]) == (READ[text],)


def test_none_stands_alone():
    assert parse(["none"]) == ()
    for texts in (["none", "token_shift"], ["token_shift", "none"], ["none", "none"]):
        with pytest.raises(UsageError, match="'none' is no reduction, and stands alone"):
            parse(texts)


def test_several_are_read_in_order():
    assert [stage.block for stage in parse(["kmedoids@8:3,49", "kmedoids@4:6,49"])] == [8, 4]
    assert parse([]) == ()


WRONG = {
    "": "no reducer '';",
    "kmeans@6:4,49": "no reducer 'kmeans'; there are: kmedoids, patch_shift, pooling, ",
    "kmedoids@:4,49": "BLOCK is a whole number of at least 0, got ''",
    "kmedoids@-1:4,49": "BLOCK is a whole number of at least 0, got '-1'",
    "kmedoids@6:0,49": "S is a whole number of at least 1, got '0'",
    "kmedoids@6:,49": "S is a whole number of at least 1, got ''",
    "kmedoids@6:4,0": "K is a whole number of at least 1, got '0'",
    "kmedoids@6:4,x": "K is a whole number of at least 1, got 'x'",
    "kmedoids@6:4,\u0664\u0669": "K is a whole number",
    "kmedoids@6:4," + "9" * 5000: "K is a whole number",
    "kmedoids@6:4,49,50": "'50' is no option=value; expected NAME@BLOCK",
    "kmedoids@6:4,49,=cosine": "'=cosine' is no option=value",
    "kmedoids@6:4,49,": "'' is no option=value",
    "kmedoids@6,49": "'49' is no option=value",
    "kmedoids@6:4,49,p=1,p=2": "'p=2' is given twice",
    "kmedoids:6,4": "no reducer 'kmedoids:6'",
}


@pytest.mark.parametrize("text", WRONG, ids=lambda text: text[:40])
def test_what_cannot_be_read_is_refused(text):
    with pytest.raises(UsageError) as caught:
        parse([text])
    assert WRONG[text].replace("NAME@BLOCK", "NAME[@BLOCK") in str(caught.value)
    assert "\n" not in str(caught.value)


UNFIT = {
    "BLOCK": ("kmedoids@12:4,49", "BLOCK is 0 to 11, for the model has 12 blocks"),
    "S": ("kmedoids@6:5,49", "kmedoids@6:5,49: 12 frames do not divide into 5 segments"),
    "S above T": ("pooling@6:24", "12 frames do not divide into 24 segments"),
    "K": ("kmedoids@6:4,148", "148 centers of the 147 tokens of a segment (3 frames of 49)"),
    "no K": ("kmedoids@6:4", "expected kmedoids@BLOCK:S,K"),
    "no S": ("sparse@6", "expected sparse@BLOCK:S,K"),
    "no block": ("spectral", "expected spectral@BLOCK:S,K"),
    "pooling without S": ("pooling", "expected pooling@BLOCK:S"),
    "pooling to K": ("pooling@6:4,20", "pooling keeps the 49 patches of a frame, not 20"),
    "a shift with S": ("token_shift@6:4", "token_shift merges no frames"),
    "an unknown option": ("kmedoids@6:4,49,x=1", "unknown option x of KMedoids; it has: metric"),
    "a size as option": ("kmedoids@6:4,49,width=1", "width is no option"),
    "text for a number": ("kmedoids@6:4,49,p=x", "p is float, got x"),
    "no number": ("kmedoids@6:4,49,p=NaN", "p is float, got NaN"),
    "a truth value for a number": ("kmedoids@6:4,49,iterations=true", "iterations is int, got tr"),
    "a number for a truth value": ("kmedoids@6:4,49,mask=1", "mask is bool, got 1"),
    "one of two kinds": ("spectral@6:4,49,neighbours=x", "neighbours is int or none, got x"),
    "p": ("kmedoids@6:4,49,p=0", "p is above 0, got 0.0"),
    "iterations": ("kmedoids@6:4,49,iterations=0", "iterations is at least 1, got 0"),
    "metric": ("kmedoids@6:4,49,metric=l1", "metric is one of euclidean, cosine, got 'l1'"),
    "rule": ("kmedoids@6:4,49,rule=mean", "rule is one of medoid, nearest_mean, got 'mean'"),
    "graph": ("spectral@6:4,49,graph=KNN", "graph is one of knn, dense, got 'KNN'"),
    "sigma": ("spectral@6:4,49,sigma=0", "sigma is above 0, got 0.0"),
    "neighbours": ("spectral@6:4,49,neighbours=0", "neighbours is at least 1, got 0"),
    "aggregation": ("kmedoids@6:4,49,aggregation=max", "aggregation is one of medoid, mean"),
    "draw": ("sparse@6:4,49,draw=x", "draw is one of even, published, got 'x'"),
    "segment_mask": ("pooling@6:4,segment_mask=all", "segment_mask is one of any, last"),
}


@pytest.mark.parametrize(("text", "match"), UNFIT.values(), ids=UNFIT)
def test_what_does_not_fit_the_model_is_refused_with_the_numbers(text, match):
    with pytest.raises(UsageError) as caught:
        plan(text)
    assert match in str(caught.value)
    assert str(caught.value).startswith(text.split(",")[0])
    assert "\n" not in str(caught.value)


def test_every_number_of_frames_is_checked():
    assert plan("kmedoids@6:4,49", frames=[12, 4]).left_of(4).frames == 4
    with pytest.raises(UsageError, match="6 frames do not divide into 4 segments"):
        plan("kmedoids@6:4,49", frames=[12, 6])


def test_shifts_act_in_their_blocks():
    assert list(plan("token_shift").reducers) == list(range(12))
    assert list(plan("temporal_shift", layers=2).reducers) == [0, 1]
    assert list(plan("patch_shift").reducers) == [10, 11]
    assert list(plan("patch_shift", layers=1).reducers) == [0]
    assert list(plan("patch_shift@3", "patch_shift@2").reducers) == [2, 3]
    with pytest.raises(UsageError, match="5 patches of a frame, at least 6 are needed"):
        plan("patch_shift", patches=5)


def test_one_reducer_per_block():
    match = "kmedoids@6:4,49 and token_shift act both in block 6, where there is room for one"
    with pytest.raises(UsageError, match=match):
        plan("token_shift", "kmedoids@6:4,49")
    assert list(plan("patch_shift", "kmedoids@6:4,49").reducers) == [6, 10, 11]


def test_stages_follow_their_blocks():
    made = plan("kmedoids@8:3,40", "kmedoids@4:6,49")
    assert made.canonical == ["kmedoids@4:6,49", "kmedoids@8:3,40"]
    assert made.left_of(12).frames == made.segments == 3
    assert plan("token_shift").segments is None
    with pytest.raises(UsageError, match="kmedoids@8:6,49: 3 frames do not divide into 6"):
        plan("kmedoids@4:3,49", "kmedoids@8:6,49")
    # Two segments of 40 tokens each are left to choose from.
    match = r"kmedoids@8:3,81: 81 centers of the 80 tokens of a segment \(2 frames of 40\)"
    with pytest.raises(UsageError, match=match):
        plan("kmedoids@4:6,40", "kmedoids@8:3,81")
    # The same frames, with less tokens each.
    assert plan("kmedoids@4:12,30", "kmedoids@8:12,20").left_of(12).frames == 12


def test_a_grid_ends_where_tokens_are_chosen():
    near = "spectral@8:2,9,spatial_temporal=true"
    assert plan("pooling@6:4", near).left_of(12).frames == 2
    with pytest.raises(UsageError, match="lie on no grid after a reducer chose"):
        plan("kmedoids@6:4,49", near)
    with pytest.raises(UsageError, match="lie on no grid after a reducer chose"):
        plan("kmedoids@6:4,49", "patch_shift@7", near)
    with pytest.raises(UsageError, match="square grid, not 48 tokens"):
        plan(near, patches=48)


def test_tokens_that_may_be_hidden_end_the_plan():
    assert plan("kmedoids@6:4,49,mask=true", "kmedoids@8:2,49").left_of(12).frames == 2
    assert plan("kmedoids@6:4,50", "kmedoids@8:2,49").left_of(12).frames == 2
    with pytest.raises(UsageError, match=r"kmedoids@8:2,49: .* may be hidden \(mask=true\)"):
        plan("kmedoids@6:4,50,mask=true", "kmedoids@8:2,49")


CANONICAL = {
    ("kmedoids@06:4,49,p=2,metric=euclidean",): ["kmedoids@6:4,49"],
    ("kmedoids@6:4,49,p=1",): ["kmedoids@6:4,49,p=1.0"],
    ("kmedoids@6:4,49,rule=nearest_mean,mask=true,metric=cosine",): [
        "kmedoids@6:4,49,mask=true,metric=cosine,rule=nearest_mean"
    ],
    ("pooling@6:4,49",): ["pooling@6:4"],
    ("spectral@6:4,49,neighbours=none,sigma=2",): ["spectral@6:4,49"],
    ("patch_shift", "token_shift@3"): ["token_shift@3", "patch_shift"],
    ("temporal_shift",): ["temporal_shift"],
    tuple(f"token_shift@{block}" for block in reversed(range(12))): ["token_shift"],
    ("patch_shift@11", "patch_shift@10,mask=false"): ["patch_shift"],
    ("patch_shift@11,mask=true", "patch_shift@10"): ["patch_shift@10", "patch_shift@11,mask=true"],
    ("patch_shift", "patch_shift@3"): ["patch_shift@3", "patch_shift@10", "patch_shift@11"],
    (): [],
}


@pytest.mark.parametrize("texts", CANONICAL)
def test_one_spelling(texts):
    made = plan(*texts).canonical
    assert made == CANONICAL[texts]
    assert plan(*made).canonical == made


def test_a_stage_keeps_its_block_where_there_is_one_alone():
    made = plan("kmedoids@0:4,49", "pooling@1:2", layers=2)
    assert made.canonical == ["kmedoids@0:4,49", "pooling@1:2"]
    assert plan("pooling@0:4", layers=1).canonical == ["pooling@0:4"]


@pytest.mark.parametrize("name", plugins.names("reducers"))
def test_every_option_can_be_written(name):
    """Each option's default, given as text, is read back as the default."""
    plugin = plugins.load("reducers", name)
    place = "@6:4" + (",49" if plugin.needs_centers else "") if plugin.is_staged else ""
    written = {True: "true", False: "false", None: "none"}
    options = "".join(
        f",{option}={written.get(parameter.default, parameter.default)}"
        for option, parameter in signature(plugin).parameters.items()
        if option not in ("width", "segments", "centers")
    )
    assert "mask=false" in options
    assert plan(name + place + options).canonical == [name + place]
