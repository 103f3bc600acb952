"""The feature folder: what is read is what was written; damage is told."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from store_files import (
    ARRAYS,
    SHARD,
    TEXTS,
    D,
    fill,
    fill_texts,
    outcome,
    quick,
    source,
    sources,
    text_row,
    whole,
)

from ttvr.errors import IncompatibleError, TtvrError
from ttvr.store import Features, Rows

__all__ = ["quick", "whole"]


def test_round_trip(whole):
    features = Features.open(whole)
    good = [item for item in sources(11) if outcome(item).row is not None]
    assert features.ids == [item.id for item in good]
    assert len(features) == len(good) == 9
    assert len(features.video.shards) == 3
    for name in ARRAYS:
        expected = np.stack([outcome(item).row[name] for item in good])
        np.testing.assert_array_equal(getattr(features, name)[:], expected)
    assert features.patches is None
    assert features.text is None
    assert features.kind == "video"
    np.testing.assert_array_equal(features.pad, np.arange(D, dtype="f2"))
    assert features.items[0]["file"] == "/videos/v00.mp4"
    assert [item["shard"] * SHARD + item["row"] for item in features.items] == list(range(9))
    assert features.meta["counts"] == {"ok": 9, "partial": 0, "failed": 2}
    assert features.meta["roots"] == ["/videos"]
    features.verify()
    assert not (whole / ".partial").exists()


def test_files_are_what_numpy_writes(whole, tmp_path):
    for path in whole.rglob("*.npy"):
        array = np.load(path, allow_pickle=False)
        np.save(tmp_path / "again.npy", array)
        assert path.read_bytes() == (tmp_path / "again.npy").read_bytes()
    for path in (whole / "video").iterdir():
        array = np.load(path, mmap_mode="r")
        assert array.ndim == 2
        assert array.dtype.str == "<f2"


def test_journal_lines(whole):
    lines = [json.loads(line) for line in (whole / "items.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [item.id for item in sources(11)]
    assert lines[0] == {
        **{"id": "v00", "root": 0, "path": "v00.mp4", "size": 10, "mtime_ns": 1, "status": "ok"},
        **{"shard": 0, "row": 0, "duration": 1.5, "frames": lines[0]["frames"]},
    }
    assert lines[3]["status"] == "failed"
    assert "row" not in lines[3]


def test_rows_read_as_one_array():
    rng = np.random.default_rng(0)
    shards = [rng.standard_normal((n, 2)).astype("f4") for n in (4, 4, 3)]
    rows, plain = Rows(shards), np.concatenate(shards)
    assert rows.shape == plain.shape
    np.testing.assert_array_equal(rows[:], plain)
    for low in range(-12, 13):
        for high in range(-12, 13):
            np.testing.assert_array_equal(rows[low:high], plain[low:high])
    np.testing.assert_array_equal(rows[10:2:-3], plain[10:2:-3])
    for index in (0, 4, 10, -1, -11, np.int64(7)):
        np.testing.assert_array_equal(rows[index], plain[index])
    index = rng.integers(-11, 11, size=40)
    np.testing.assert_array_equal(rows[index], plain[index])
    np.testing.assert_array_equal(rows[plain[:, 0] > 0], plain[plain[:, 0] > 0])
    np.testing.assert_array_equal(np.asarray(rows), plain)
    assert np.shares_memory(rows[5:7], shards[1])
    assert rows[[]].shape == (0, 2)
    for wrong in (11, -12, [3, 11]):
        with pytest.raises(IndexError):
            rows[wrong]


def test_nothing_but_failures(tmp_path):
    folder = tmp_path / "feats"
    fill(folder, [source("v03"), source("v08")])
    features = Features.open(folder)
    assert len(features) == len(features.ids) == len(features.video) == 0
    assert list(features.items) == []
    assert features.meta["counts"]["failed"] == 2


def test_unicode_ids(tmp_path):
    items = [source("größe/ä b"), source("日本/動画"), source("it's 100%")]
    fill(tmp_path / "feats", items)
    assert Features.open(tmp_path / "feats").ids == [item.id for item in items]
    assert (tmp_path / "feats" / "ids.txt").read_bytes().count(b"\n") == 3


def test_text_folder(tmp_path):
    folder = tmp_path / "tfeats"
    assert fill_texts(folder, TEXTS) == 10
    features = Features.open(folder)
    assert features.kind == "text"
    assert features.texts == TEXTS
    assert features.gt == [(0, "v00"), (1, "v00")]
    assert features.ids == []
    assert features.video is features.pad is None
    for name in ("text", "words", "mask"):
        expected = np.stack([text_row(text)[name] for text in TEXTS])
        np.testing.assert_array_equal(getattr(features, name)[:], expected)
    assert fill_texts(folder, TEXTS) == 0
    with pytest.raises(IncompatibleError, match=r"texts\.sha256"):
        fill_texts(folder, TEXTS[:-1])
    assert fill_texts(folder, TEXTS[:-1], overwrite=True, pairs=None) == 9
    assert Features.open(folder).gt is None
    (folder / "gt.tsv").write_text("0\tv00\n9\tv01\n")
    with pytest.raises(TtvrError, match="line 2"):
        _ = Features.open(folder).gt


def damage(path, change):
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("video/00001.npy", lambda b: b[:-3], "not a readable .npy file"),
        ("video/00001.npy", lambda b: b + b"x", "bytes, its header says"),
        ("video/00001.npy", lambda b: b"", "not a readable .npy file"),
        ("video/00001.npy", lambda b: b"garbage" * 40, "not a readable .npy file"),
        ("video/00001.npy", lambda b: pickle.dumps([1]), "not a readable .npy file"),
        ("frames/00000.npy", lambda b: b.replace(b"<f2", b"<f4"), "not a readable .npy file"),
        ("frames/00000.npy", lambda b: b.replace(b"<f2", b"<i2"), r"<i2 \[4, 3, 8\], expected <f2"),
        ("frames/00000.npy", lambda b: b[:-2] + b"\x00\x7c", "NaN or infinity"),
        ("video/00002.npy", lambda b: b[:-2] + b"\x00\x7e", "NaN or infinity"),
        ("video/00002.npy", lambda b: b[:-2] + b"\x00\x44", "vector of norm"),
        ("video/00002.npy", lambda b: b[:128] + bytes(len(b) - 128), "vector of norm 0"),
        ("ids.txt", lambda b: b + b"more\n", "10 lines, 9 rows"),
        ("ids.txt", lambda b: b"\xff" + b, "not UTF-8"),
        ("meta.json", lambda b: b[:-5], "is not JSON"),
        ("meta.json", lambda b: b.replace(b"ttvr-features/1", b"ttvr-features/9"), "features/9"),
        ("meta.json", lambda b: b.replace(b'"frames": 3,', b""), "frames"),
        ("meta.json", lambda b: b.replace(b'"complete"', b'"incomplete"'), "unfinished"),
        ("meta.json", lambda b: b"[]", "format None"),
    ],
)
def test_damaged_files(tmp_path, whole, name, change, message):
    folder = tmp_path / "feats"
    fill(folder, sources(11))
    damage(folder / name, change)
    with pytest.raises(TtvrError, match=message) as caught:
        Features.open(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_pickled_array_and_missing_or_stray_file(tmp_path):
    folder = tmp_path / "feats"
    fill(folder, sources(11))
    saved = (folder / "video" / "00000.npy").read_bytes()
    np.save(folder / "video" / "00000.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(TtvrError, match="not a readable"):
        Features.open(folder)
    (folder / "video" / "00000.npy").unlink()
    with pytest.raises(TtvrError, match=r"00000\.npy: missing"):
        Features.open(folder)
    (folder / "video" / "00000.npy").write_bytes(saved)
    (folder / "mask" / "00007.npy").write_bytes(saved)
    with pytest.raises(TtvrError, match="not one of the 3 shards"):
        Features.open(folder)
    (folder / "video" / "00000.npy").unlink()
    with pytest.raises(TtvrError, match=r"00000\.npy: missing"):
        fill(folder, [*sources(11), source("z")])


def test_items_are_read_for_the_rows_asked_for(tmp_path):
    fill(tmp_path / "feats", sources(3))
    journal = tmp_path / "feats" / "items.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    whole = Features.open(tmp_path / "feats").items
    assert whole[-1] == list(whole)[len(whole) - 1]
    assert [item["id"] for item in whole[1:]] == Features.open(tmp_path / "feats").ids[1:]

    journal.write_bytes(b"".join([lines[1], lines[0], *lines[2:]]))
    swapped = Features.open(tmp_path / "feats").items
    assert swapped[2] == whole[2]
    with pytest.raises(TtvrError, match="row 0 is not about"):
        swapped[0]
    journal.write_bytes(b"".join(lines[:-1]))
    with pytest.raises(TtvrError, match="rows"):
        _ = Features.open(tmp_path / "feats").items
