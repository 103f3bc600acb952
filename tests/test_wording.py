"""How messages count and list."""

from __future__ import annotations

from ttvr.wording import counted, first_of, meant


def test_counts_agree_with_what_they_count():
    assert [counted(n, "video") for n in (0, 1, 2)] == ["0 videos", "1 video", "2 videos"]
    assert [counted(n, "query") for n in (0, 1, 2)] == ["0 queries", "1 query", "2 queries"]


def test_long_lists_are_cut():
    assert first_of("abc", most=3) == "a, b, c"
    assert first_of("abcde", most=3) == "a, b, c and 2 more"


def test_the_nearest_name_is_offered():
    assert meant("tset", ("train", "val", "test")) == "; did you mean test?"
    assert meant("nothing", ("train", "val", "test")) == ""
