"""The registry of plug-ins: what a wrong name and a wrong option are answered with."""

from __future__ import annotations

import pytest

from ttvr import plugins
from ttvr.errors import UsageError

SIZES = {"width": 32, "frames": 4, "words": 8}


def test_a_misspelt_name_is_answered_with_the_list():
    with pytest.raises(UsageError, match="meanp"):
        plugins.load("heads", "mean_p")
    with pytest.raises(UsageError, match="unknown option colour"):
        plugins.construct(plugins.load("heads", "meanp"), {"colour": 1}, width=8)
    with pytest.raises(UsageError, match="did you mean residual"):
        plugins.construct(plugins.load("heads", "tc_mgc"), {"residul": False}, **SIZES)
    with pytest.raises(ValueError, match="no plug-in family"):
        plugins.names("hats")


@pytest.mark.parametrize(
    ("head", "options", "message"),
    [
        ("tc_mgc", {"residual": "flase"}, "residual is bool, got flase"),
        ("tc_mgc", {"bilinear": 0}, "bilinear is bool, got 0"),
        ("tc_mgc", {"alpha": None}, "alpha is float, got none"),
        ("seq_transf", {"layers": "four"}, "layers is int, got four"),
        ("seq_transf", {"layers": 1.5}, "layers is int, got 1.5"),
        ("seq_transf", {"heads": True}, "heads is int or none, got true"),
        ("xpool", {"dropout": float("nan")}, "dropout is float, got NaN"),
        ("ts2net", {"top": -1}, "got top -1"),
    ],
)
def test_an_option_of_another_type_is_refused(head, options, message):
    with pytest.raises(UsageError, match=message):
        plugins.construct(plugins.load("heads", head), options, **SIZES)
