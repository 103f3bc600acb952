"""The feature folder: rows, resuming after any crash, mixtures, damage."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from ttvr.errors import IncompatibleError, TtvrError, UsageError
from ttvr.store import Features, Outcome, Rows, Settings, Source, TextWriter, Writer
from ttvr.store._claim import Lock, clear_partial

T, D, SHARD = 3, 8, 4
ARRAYS = ("video", "frames", "mask", "times")


def settings(**changes):
    made = Settings(
        arrays=ARRAYS,
        dtype="<f2",
        shard_rows=SHARD,
        model={"fingerprint": "sha256:aa", "space": "11", "source": "a.pt"},
        preprocess={"hash": "hh", "frames": T},
        provenance={"precision": "fp32", "created": "now"},
    )
    return made._replace(**changes)


def source(name, *, size=10, mtime=1, root="/videos"):
    return Source(name, root, f"{name}.mp4", size, mtime)


def sources(count):
    return [source(f"v{number:02d}") for number in range(count)]


def outcome(item):
    """What a deterministic model makes of an input; every fifth one fails."""
    digest = hashlib.sha256(repr(item).encode()).digest()
    if item.id[1:].isdecimal() and int(item.id[1:]) % 5 == 3:
        return Outcome({"status": "failed", "error": "empty", "detail": "no frame"}, None)
    rng = np.random.default_rng(digest[0])
    vector = rng.standard_normal(D)
    real = np.arange(T) <= digest[1] % T
    frames = np.where(real[:, None], rng.standard_normal((T, D)), 0)
    row = {
        "video": (vector / np.linalg.norm(vector)).astype("<f2"),
        "frames": frames.astype("<f2"),
        "mask": real,
        "times": np.where(real, np.arange(T), np.nan).astype("<f4"),
    }
    return Outcome({"status": "ok", "duration": 1.5, "frames": int(real.sum())}, row)


def writer(folder, items, *, made=None, **options):
    pad = np.arange(D, dtype="f4")
    return Writer(folder, items, settings=made or settings(), pad=pad, **options)


def fill(folder, items, *, stop=None, **options):
    """Run as extraction does; returns the inputs that had to be computed."""
    computed = []
    with writer(folder, items, **options) as open_folder:
        for item in items[open_folder.done :]:
            if stop is not None and len(computed) == stop:
                return computed
            result = open_folder.kept(item)
            if result is None:
                computed.append(item.id)
                result = outcome(item)
            open_folder.add(result)
        open_folder.finish()
    return computed


def content(folder):
    """All bytes of a folder, but for who made it and when."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[str(path.relative_to(folder))] = path.read_bytes()
    meta = json.loads(found.pop("meta.json"))
    meta.pop("provenance")
    return found | {"meta": meta}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """What is synced survives power cuts, which no test here makes; syncing takes most time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "feats"
    fill(folder, sources(11))
    return folder


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


class Crash(BaseException):
    """Stands for the death of the process."""


_CALLS = ("write", "pwrite", "fsync", "ftruncate", "unlink", "mkdir", "rmdir", "rename")


def crash_at(monkeypatch, step, *, after):
    """Make call number `step` that changes the disk the last one; returns the counter."""
    counter = {"calls": 0}

    def wrapped(real):
        def call(*args, **kwargs):
            counter["calls"] += 1
            if counter["calls"] > step or (counter["calls"] == step and not after):
                raise Crash
            result = real(*args, **kwargs)
            if counter["calls"] == step:
                raise Crash
            return result

        return call

    for name in _CALLS:
        monkeypatch.setattr(os, name, wrapped(getattr(os, name)))
    monkeypatch.setattr(pathlib.Path, "replace", wrapped(pathlib.Path.replace))
    return counter


def crash_everywhere(monkeypatch, tmp_path, begin, run, expected, *, every=1):
    """Run after a crash at every step in turn; the bytes have to be those of no crash."""
    step, tried, survived = 1, 0, False
    while not survived:
        folder = tmp_path / f"{step}" / "feats"
        begin(folder)
        with monkeypatch.context() as patch:
            crash_at(patch, step, after=tried % 2 == 0)
            try:
                run(folder)
                survived = True
            except Crash:
                pass
        if not survived and folder.exists():
            with monkeypatch.context() as patch:  # a second crash, in the middle of recovering
                crash_at(patch, 1 + step % 7, after=True)
                with contextlib.suppress(Crash):
                    run(folder)
        run(folder)
        assert content(folder) == expected, step
        step += every
        tried += 1
    return step


def test_a_crash_at_any_step_changes_nothing(monkeypatch, tmp_path, whole):
    steps = crash_everywhere(
        monkeypatch,
        tmp_path,
        lambda folder: folder.parent.mkdir(),
        lambda folder: fill(folder, sources(11)),
        content(whole),
    )
    assert steps > 100


def changed(items):
    return [items[0], source("v01", mtime=2), *items[2:6], source("v05b"), *items[7:], source("z")]


def test_a_crash_while_inputs_change(monkeypatch, tmp_path):
    items = changed(sources(7))
    fill(tmp_path / "expected", items)
    fill(tmp_path / "before", sources(7))
    crash_everywhere(
        monkeypatch,
        tmp_path,
        lambda folder: shutil.copytree(tmp_path / "before", folder),
        lambda folder: fill(folder, items),
        content(tmp_path / "expected"),
        every=2,
    )


def test_a_crash_while_overwriting(monkeypatch, tmp_path):
    other = settings(model={"fingerprint": "sha256:bb"})
    fill(tmp_path / "expected", sources(5), made=other)
    fill(tmp_path / "before", sources(7))
    crash_everywhere(
        monkeypatch,
        tmp_path,
        lambda folder: shutil.copytree(tmp_path / "before", folder),
        lambda folder: fill(folder, sources(5), made=other, overwrite=True),
        content(tmp_path / "expected"),
        every=2,
    )


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


_CHILD = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
import test_store
if sys.argv[1] == "hold":
    with test_store.Writer(Path(sys.argv[2]), test_store.sources(3), settings=test_store.settings(),
                           pad=test_store.np.zeros(8)):
        print("held", flush=True)
        time.sleep(60)
real = test_store.outcome
def slow(item):
    time.sleep(0.002)
    return real(item)
test_store.outcome = slow
print("begun", flush=True)
test_store.fill(Path(sys.argv[2]), test_store.sources(300))
"""


def child(*arguments):
    code = _CHILD.format(tests=str(pathlib.Path(__file__).parent))
    root = pathlib.Path(__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, cwd=root
    )
    process.stdout.readline()
    return process


def test_kill_9_several_times(tmp_path):
    fill(tmp_path / "expected", sources(300))
    folder, rng, kills = tmp_path / "feats", random.Random(0), 0
    journal, lines = folder / "items.jsonl", 0
    for _ in range(4):
        process = child("fill", folder)
        lines += rng.randrange(5, 40)
        while process.poll() is None and _lines(journal) < lines:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        process.stdout.close()
        lines = _lines(journal)
    assert kills >= 2  # a child that nobody could stop in time may have finished
    fill(folder, sources(300))
    assert content(folder) == content(tmp_path / "expected")


def _lines(journal):
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def test_one_process_at_a_time(tmp_path):
    folder = tmp_path / "feats"
    process = child("hold", folder)
    try:
        with pytest.raises(TtvrError, match=f"being written by process {process.pid}"):
            fill(folder, sources(3))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert fill(folder, sources(3)) == ["v00", "v01", "v02"]  # the dead process's lock is void


def test_a_process_that_comes_as_another_ends(monkeypatch, tmp_path):
    """Between the removal of the lock and that of its folder the next process takes both."""
    folder, real, locks = tmp_path / "feats", pathlib.Path.rmdir, [Lock(tmp_path / "feats")]

    def rmdir(path):
        locks.append(Lock(folder))
        real(path)

    monkeypatch.setattr(pathlib.Path, "rmdir", rmdir)
    clear_partial(folder)
    with pytest.raises(TtvrError, match="being written by process"):
        Lock(folder)
    for lock in locks:
        lock.release()


@pytest.mark.parametrize("error", [FileNotFoundError(2, "gone"), PermissionError(13, "denied")])
def test_a_folder_that_another_process_removed(monkeypatch, tmp_path, error):
    """That other one may even have come to its own end by then; what else fails is an error."""
    lock = Lock(tmp_path)

    def rmdir(path):
        raise error

    monkeypatch.setattr(pathlib.Path, "rmdir", rmdir)
    allowed = isinstance(error, FileNotFoundError)
    with contextlib.nullcontext() if allowed else pytest.raises(PermissionError):
        clear_partial(tmp_path)
    lock.release()


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


TEXTS = [f"a caption of {n} words" for n in range(10)]


def text_row(text):
    rng = np.random.default_rng(len(text) * 7 + ord(text[13]))
    vector = rng.standard_normal(D)
    real = np.arange(5) < 2 + ord(text[13]) % 3
    words = np.where(real[:, None], rng.standard_normal((5, D)), 0)
    return {
        "text": (vector / np.linalg.norm(vector)).astype("<f2"),
        "words": words.astype("<f2"),
        "mask": real,
    }


PAIRS = ((0, "v00"), (1, "v00"))


def text_writer(folder, texts, *, pairs=PAIRS, **options):
    return TextWriter(
        folder,
        texts,
        model={"fingerprint": "sha256:aa"},
        words=5,
        facts={"on_long": "truncate"},
        provenance={"precision": "fp32"},
        pairs=pairs,
        dtype="<f2",
        shard_rows=SHARD,
        **options,
    )


def fill_texts(folder, texts, *, stop=None, **options):
    written = 0
    with text_writer(folder, texts, **options) as open_folder:
        for text in texts[open_folder.done :]:
            if written == stop:
                return written
            open_folder.add(text_row(text))
            written += 1
        open_folder.finish()
    return written


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


def test_a_crash_while_writing_texts(monkeypatch, tmp_path):
    fill_texts(tmp_path / "expected", TEXTS)
    crash_everywhere(
        monkeypatch,
        tmp_path,
        lambda folder: folder.parent.mkdir(),
        lambda folder: fill_texts(folder, TEXTS),
        content(tmp_path / "expected"),
    )


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
