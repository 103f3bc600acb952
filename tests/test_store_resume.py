"""The feature folder: going on with what is there, and what is refused."""

from __future__ import annotations

import os

import pytest
from store_files import (
    PAIRS,
    SHARD,
    TEXTS,
    D,
    T,
    changed,
    content,
    fill,
    fill_texts,
    quick,
    settings,
    source,
    sources,
    text_writer,
    whole,
    writer,
)

from ttvr.errors import IncompatibleError, TtvrError, UsageError
from ttvr.store import Features, departed

__all__ = ["quick", "whole"]


@pytest.mark.parametrize("stop", range(12))
def test_stopping_between_inputs(tmp_path, whole, stop):
    folder = tmp_path / "feats"
    first = fill(folder, sources(11), stop=stop)
    if stop < 11:
        with pytest.raises(TtvrError, match="unfinished"):
            Features.open(folder)
    second = fill(folder, sources(11))
    assert first + second == [item.id for item in sources(11)]
    assert content(folder) == content(whole)


def test_running_again_computes_nothing(tmp_path, whole):
    folder = tmp_path / "feats"
    fill(folder, sources(11))
    assert writer(folder, sources(11)).finished() == Features.open(folder).meta
    for items, options in (
        (sources(10), {}),
        (sources(11), {"made": settings(dtype="<f4")}),
        (sources(11), {"retry_failed": True}),
        (sources(11), {"overwrite": True}),
        (sources(11), {"resume": False}),
    ):
        assert writer(folder, items, **options).finished() is None
    assert fill(folder, sources(11)) == []
    assert content(folder) == content(whole)


@pytest.mark.parametrize("stop", [None, 5])
@pytest.mark.parametrize(
    ("items", "redone"),
    [
        (changed(sources(11)), {"v01", "v05b", "z"}),
        (sources(11)[2:], set()),
        (sources(5), set()),
        (sources(11)[::-1], set()),
        ([*sources(11), source("w"), source("x")], {"w", "x"}),
        ([source("a"), *sources(11)], {"a"}),
        ([source("v00", root="/elsewhere"), *sources(11)[1:]], {"v00"}),
        ([source("v00", size=11), *sources(11)[1:]], {"v00"}),
    ],
)
def test_other_inputs_reuse_what_is_there(tmp_path, items, redone, stop):
    fill(tmp_path / "expected", items)
    folder = tmp_path / "feats"
    before = fill(folder, sources(11), stop=stop)
    computed = fill(folder, items)
    if stop is None:
        assert set(computed) == redone
    else:
        assert set(computed) == redone | ({item.id for item in items} - set(before))
    assert content(folder) == content(tmp_path / "expected")


def test_rows_survive_several_changes_without_an_end(tmp_path):
    folder, items = tmp_path / "feats", sources(11)
    fill(folder, items)
    assert fill(folder, [source("a"), *items], stop=1) == ["a"]
    assert fill(folder, [source("b"), source("a"), *items], stop=1) == ["b"]
    assert fill(folder, [source("b"), source("a"), *items]) == []


def test_retry_failed(tmp_path, whole):
    folder = tmp_path / "feats"
    fill(folder, sources(11))
    assert fill(folder, sources(11), retry_failed=True) == ["v03", "v08"]
    assert content(folder) == content(whole)


def test_a_torn_journal_line_is_dropped(tmp_path, whole):
    folder = tmp_path / "feats"
    fill(folder, sources(11), stop=6)
    journal = folder / "items.jsonl"
    journal.write_bytes(journal.read_bytes()[:-9])
    assert fill(folder, sources(11))[0] == "v05"
    assert content(folder) == content(whole)


def test_a_row_that_a_power_cut_lost_is_made_again(tmp_path, whole):
    folder = tmp_path / "feats"
    fill(folder, sources(11), stop=7)
    path = folder / ".partial" / "frames-00001.npy"
    with path.open("r+b") as file:
        file.seek(128 + T * D * 2)
        file.write(bytes(T * D * 2))
    assert fill(folder, sources(11))[0] == "v06"
    assert content(folder) == content(whole)


def test_a_broken_journal_line_is_an_error(tmp_path):
    folder = tmp_path / "feats"
    fill(folder, sources(11), stop=6)
    journal = folder / "items.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b"{", b"?", 1))
    with pytest.raises(TtvrError, match="line 1 is not a journal line"):
        fill(folder, sources(11))


def test_mixtures_are_refused(tmp_path):
    folder = tmp_path / "feats"
    fill(folder, sources(3))
    before = content(folder)
    for other, key in (
        (settings(dtype="<f4"), "dtype is '<f2', now '<f4'"),
        (settings(shard_rows=9), "shard_rows is 4, now 9"),
        (settings(arrays=("video", "mask", "times")), "arrays"),
        (settings(model={"fingerprint": "x"}), "model.fingerprint is 'sha256:aa', now 'x'"),
        (settings(preprocess={"hash": "h", "fps": 3}), "preprocess.hash is 'hh', now 'h'; prepr"),
        (settings(provenance={"precision": "bf16"}), "provenance.precision is 'fp32', now 'bf16'"),
    ):
        with pytest.raises(IncompatibleError) as caught:
            fill(folder, sources(3), made=other)
        assert key in str(caught.value)
        assert content(folder) == before
    moved = settings(model={"fingerprint": "sha256:aa", "space": "11", "source": "moved.pt"})
    assert fill(folder, sources(3), made=moved) == []


def test_other_tools_are_told(tmp_path, caplog):
    made = [settings(provenance={"precision": "fp32", "ffmpeg": v}) for v in ("5.1", "7.0")]
    fill(tmp_path / "feats", sources(4), made=made[0], stop=2)
    fill(tmp_path / "feats", sources(4), made=made[1])
    assert "made with ffmpeg 5.1, the rest will be with 7.0" in caplog.text


def test_an_unfinished_change_still_refuses_mixtures(tmp_path):
    folder, other = tmp_path / "feats", settings(dtype="<f4")
    fill(folder, sources(11))
    fill(folder, sources(11)[::-1], stop=0)
    (folder / "meta.json").unlink()
    with pytest.raises(IncompatibleError):
        fill(folder, sources(3), made=other)
    fill(folder, sources(3), made=other, overwrite=True)
    assert content(folder)["meta"]["dtype"] == "<f4"


def test_folders_that_are_not_ours(tmp_path):
    (tmp_path / "notes.txt").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="not a feature folder"):
            fill(tmp_path, sources(3), overwrite=overwrite)
        with pytest.raises(UsageError, match="is a file"):
            fill(tmp_path / "notes.txt", sources(3), overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    fill(tmp_path / "empty", sources(3))
    with pytest.raises(UsageError, match="--no-resume"):
        fill(tmp_path / "empty", sources(3), resume=False)
    (tmp_path / "empty" / "mine.txt").write_text("kept")
    fill(tmp_path / "empty", sources(2), overwrite=True)
    assert (tmp_path / "empty" / "mine.txt").read_text() == "kept"
    with pytest.raises(TtvrError, match=r"no meta\.json"):
        Features.open(tmp_path)


def test_finished_texts(tmp_path):
    folder = tmp_path / "tfeats"
    assert text_writer(folder, TEXTS).finished() is None
    fill_texts(folder, TEXTS, stop=6)
    assert text_writer(folder, TEXTS).finished() is None
    fill_texts(folder, TEXTS)
    for pairs in (PAIRS, None):
        assert text_writer(folder, TEXTS, pairs=pairs).finished() == Features.open(folder).meta
    for texts, options in (
        (TEXTS[1:], {}),
        (TEXTS, {"pairs": [(0, "v01")]}),
        (TEXTS, {"overwrite": True}),
        (TEXTS, {"resume": False}),
    ):
        assert text_writer(folder, texts, **options).finished() is None
    assert fill_texts(folder, TEXTS, pairs=None) == 0
    assert Features.open(folder).gt == list(PAIRS)
    assert fill_texts(folder, TEXTS, pairs=[(0, "v01")]) == 0
    assert Features.open(folder).gt == [(0, "v01")]


@pytest.mark.parametrize("stop", range(10))
def test_texts_go_on_at_whole_shards(tmp_path, stop):
    fill_texts(tmp_path / "expected", TEXTS)
    folder = tmp_path / "tfeats"
    fill_texts(folder, TEXTS, stop=stop)
    assert fill_texts(folder, TEXTS) == 10 - stop // SHARD * SHARD
    assert content(folder) == content(tmp_path / "expected")


def test_other_videos_are_not_dropped_unasked(tmp_path):
    folder, others = tmp_path / "feats", [source("x"), source("v00", root="/elsewhere")]
    fill(folder, sources(5))
    assert [one.id for one in departed(folder, sources(9)[4:])] == ["v00", "v01", "v02"]
    assert departed(folder, [source("v00", size=7), *sources(5)[1:]]) == []
    assert departed(tmp_path / "none", others) == []
    before = content(folder)
    with pytest.raises(IncompatibleError, match="holds 4 other videos, none of them among these"):
        fill(folder, others)
    assert content(folder) == before
    fill(folder, others, overwrite=True)
    assert Features.open(folder).ids == ["x", "v00"]


def test_inputs_that_failed_are_no_loss(tmp_path):
    fill(tmp_path / "feats", [source("v03")])
    assert fill(tmp_path / "feats", sources(2)) == ["v00", "v01"]


@pytest.mark.parametrize("size", [0, 60, 130])
@pytest.mark.parametrize("name", ["video/00000.npy", "times/00002.npy"])
def test_damage_leaves_the_folder_as_it_was(tmp_path, name, size):
    folder = tmp_path / "feats"
    fill(folder, sources(11))
    os.truncate(folder / name, size)
    before = content(folder)
    for items in (sources(11), sources(12), sources(11)[::-1]):
        with pytest.raises(TtvrError, match=rf"{name}: .*; extract again with --overwrite"):
            writer(folder, items).finished() or fill(folder, items)
        assert content(folder) == before
    (folder / name).unlink()
    with pytest.raises(TtvrError, match=rf"{name}: missing"):
        fill(folder, sources(12))
    assert {*content(folder)} == {*before} - {name}


def test_damaged_texts_leave_the_folder_as_it_was(tmp_path):
    folder = tmp_path / "tfeats"
    fill_texts(folder, TEXTS)
    os.truncate(folder / "words" / "00001.npy", 150)
    before = content(folder)
    for pairs in (PAIRS, [(0, "v01")]):
        with pytest.raises(TtvrError, match=r"words/00001\.npy: has not the 4 rows"):
            text_writer(folder, TEXTS, pairs=pairs).finished() or fill_texts(
                folder, TEXTS, pairs=pairs
            )
        assert content(folder) == before
