"""`ttvr-data export --per-video` and `ttvr-data import`: files per video, and the way back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from feature_folder import NAMES, T, write_exported
from store_files import quick  # noqa: F401
from tiny import EMBED

from ttvr.commands import data as command
from ttvr.commands import eval as evaluation
from ttvr.commands import rank
from ttvr.errors import UsageError
from ttvr.store import Features, export_per_video


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """clip.pt, feats/ made with it, and files/ exported of them."""
    return write_exported(tmp_path_factory.mktemp("home"))


@pytest.fixture
def call(capsys):
    def run(*arguments):
        code = command.main([str(argument) for argument in (*arguments, "--progress", "never")])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def foreign(tmp_path):
    """Arrays that another program wrote: of every dtype and length, one with times."""
    folder, chance = tmp_path / "foreign", np.random.default_rng(0)
    (folder / "b").mkdir(parents=True)
    for name, length, dtype in (("a", 2, "<f2"), ("b/one", 5, "<f4"), ("c", 1, ">f8")):
        np.save(folder / f"{name}.npy", chance.standard_normal((length, EMBED)).astype(dtype))
    (folder / "a.json").write_text(json.dumps({"times": [0.5, None], "caption": "of theirs"}))
    return folder


def stamps(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def arrays(folder):
    kept = (folder / "ids.txt", *sorted(folder.rglob("*.npy")))
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


def test_files_hold_what_is_real(home):
    features = Features.open(home / "feats")
    for row, id in enumerate(features.ids):
        real = features.mask[row]
        found = np.load(home / "files" / f"{id}.npy", allow_pickle=False)
        assert found.dtype == "<f2"
        np.testing.assert_array_equal(found, features.frames[row][real])
        facts = json.loads((home / "files" / f"{id}.json").read_text())
        assert facts["times"] == features.times[row][real].tolist()
        told = (facts["id"], facts["path"], facts["status"], facts["duration"])
        assert told == (id, f"/clips/{NAMES[id]}", "ok", 1.0)


def test_there_and_back_are_the_same_bytes(home, call, tmp_path, capsys):
    code, printed, _ = call("import", home / "files", "-o", tmp_path / "back")
    assert (code, printed) == (0, f"{tmp_path / 'back'}\n")
    assert arrays(tmp_path / "back") == arrays(home / "feats")
    before, after = (Features.open(folder) for folder in (home / "feats", tmp_path / "back"))
    for key in ("model", "preprocess", "dtype", "frames", "shard_rows"):
        assert before.meta[key] == after.meta[key]
    queries = (str(home / "feats"), "--query", "a dog", "-k", "3")
    assert rank.main(list(queries)) == 0
    hits = capsys.readouterr().out
    assert rank.main([str(tmp_path / "back"), *queries[1:]]) == 0
    assert capsys.readouterr().out == hits


def test_export_goes_on_and_follows_its_features(home, call, tmp_path):
    out, feats = tmp_path / "files", home / "feats"
    assert call("export", feats, "--per-video", "-o", out)[0] == 0
    before = stamps(out)
    (out / "five.npy").write_bytes(b"torn")
    (out / "six.json").unlink()
    code, printed, _ = call("export", feats, "--per-video", "-o", out, "--json")
    facts = json.loads(printed)
    assert (code, facts["written"], facts["kept"], facts["removed"]) == (0, 2, 5, 0)
    after = stamps(out)
    made = {path.name for path in after if after[path] != before.get(path)}
    # The list says that the export is not over until it is.
    assert made == {"five.npy", "six.json", "ttvr-features.json"}
    origin = json.loads((out / "ttvr-features.json").read_text())
    origin["ids"].append("gone")
    (out / "ttvr-features.json").write_text(json.dumps(origin))
    (out / "gone.npy").touch()
    assert call("export", feats, "--per-video", "-o", out)[0] == 0
    assert not (out / "gone.npy").exists()
    origin["meta"]["model"]["base"] = "other"
    (out / "ttvr-features.json").write_text(json.dumps(origin))
    code, _, err = call("export", feats, "--per-video", "-o", out)
    assert code == 4
    assert "model.base is 'other'" in err
    assert call("export", feats, "--per-video", "-o", out, "--overwrite")[0] == 0


def test_an_interrupted_export_is_not_taken_for_a_whole_one(home, call, tmp_path):
    def interrupt(kept):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_per_video(Features.open(home / "feats"), tmp_path / "files", on_step=interrupt)
    code, _, err = call("import", tmp_path / "files", "-o", tmp_path / "back")
    assert code == 1
    assert "unfinished export" in err


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["../up"], "'../up' is no name of a file below a folder"),
        (["/etc/x"], "'/etc/x' is no name"),
        (["a", "a.npy/b"], "needs a folder where the file a.npy goes"),
        (["ttvr-features"], "would take the place of ttvr-features.json"),
    ],
)
def test_ids_that_escape_or_collide_are_refused(home, tmp_path, ids, message):
    features = Features.open(home / "feats")
    features.ids = ids
    with pytest.raises(UsageError, match=message.replace(".", r"\.")):
        export_per_video(features, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_use(home, call, tmp_path, foreign):
    feats, other = home / "feats", tmp_path / "other"
    other.mkdir()
    (other / "mine").touch()
    for arguments, message in (
        (("export", feats, "-o", tmp_path / "x"), "pass --per-video"),
        (("export", feats, "--per-video", "-o", other), "holds no earlier export"),
        (("export", feats, "--per-video", "-o", feats / "x"), "lies within"),
        (("import", foreign, "-o", tmp_path / "x"), "pass its checkpoint with -w"),
        (("import", foreign, "-o", foreign / "x", "-w", "ttvr-tiny"), "lies within"),
        (("import", home / "files", "-o", tmp_path / "x", "-w", "a"), "tells that; leave it out"),
        (("import", other, "-o", tmp_path / "x", "-w", "ttvr-tiny"), "no .npy files"),
        (("import", feats, "-o", tmp_path / "x", "-w", "a"), "is a feature folder already"),
        (("import", feats / "ids.txt", "-o", tmp_path / "x"), "is a file, expected a folder"),
    ):
        code, out, err = call(*arguments)
        assert (code, out) == (2, ""), arguments
        assert message in err
        assert not (tmp_path / "x").exists()


def test_arrays_of_another_program(home, call, tmp_path, foreign, capsys):
    out, model = tmp_path / "feats", ("-w", home / "clip.pt")
    assert call("import", foreign, "-o", out, *model)[0] == 0
    features = Features.open(out)
    features.verify()
    assert features.ids == ["a", "b/one", "c"]
    assert features.mask[:].sum(axis=1).tolist() == [2, 5, 1]
    np.testing.assert_array_equal(features.times[0][:2], [0.5, np.nan])
    own = Features.open(home / "feats")
    for key in ("base", "space", "fingerprint"):
        assert features.meta["model"][key] == own.meta["model"][key]
    np.testing.assert_array_equal(features.pad.shape, (EMBED,))
    for row, id in enumerate(features.ids):
        frames = np.load(foreign / f"{id}.npy").astype("f4")
        np.testing.assert_array_equal(features.frames[row][: len(frames)], frames.astype("<f2"))
        mean = (frames / np.linalg.norm(frames, axis=1, keepdims=True)).mean(axis=0)
        np.testing.assert_allclose(features.video[row], mean / np.linalg.norm(mean), atol=1e-3)
    before = stamps(out)
    assert call("import", foreign, "-o", out, *model)[0] == 0
    assert stamps(out) == before
    (tmp_path / "pairs.tsv").write_text("a dog\ta\na cat\tc\n")
    assert evaluation.main([str(out), "--gt", str(tmp_path / "pairs.tsv")]) == 0
    assert "frames 5 of an unknown sampler" in capsys.readouterr().out


def test_what_is_of_no_use_is_listed_and_has_no_row(home, call, tmp_path, foreign):
    bad = {
        "nan": np.full((2, EMBED), np.nan),
        "none": np.zeros((0, EMBED)),
        "zero": np.zeros((2, EMBED)),
        "flat": np.ones(EMBED),
        "whole": np.ones((2, EMBED), dtype=int),
        "wide": np.ones((2, EMBED + 1)),
        "large": np.full((1, EMBED), 1e6),
        "pickled": np.array([[{}]]),
    }
    for name, array in bad.items():
        np.save(foreign / f"{name}.npy", array)
    (foreign / "text.npy").write_text("no array")
    (foreign / "c.json").write_text("[")
    (foreign / "line\nbreak.npy").touch()
    arguments = ("import", foreign, "-o", tmp_path / "feats", "-w", home / "clip.pt", "--frames", 4)
    code, printed, err = call(*arguments, "--json")
    facts = json.loads(printed)
    assert (code, facts["count"], len(facts["left_out"])) == (3, 1, 1)
    assert set(facts["failed"]) == {
        str(foreign / f"{name}.npy") for name in (*bad, "text", "c", "b/one")
    }
    for reason in (
        *("NaN or infinity", "empty: no frames", "a frame of zeros", "float64 [32], expected"),
        *("int64 [2, 32]", f"a width of {EMBED + 1}", "--dtype float32", "c.json is not JSON"),
        *("5 frames, at most 4 are taken", "not a readable .npy file"),
    ):
        assert reason in err
    assert Features.open(tmp_path / "feats").ids == ["a"]


def test_a_model_of_another_width_is_refused(call, tmp_path, foreign):
    code, _, err = call("import", foreign, "-o", tmp_path / "feats", "-w", "ttvr-tiny")
    assert code == 4
    assert f"a.npy has a width of {EMBED}, ttvr-tiny makes" in err
    assert not (tmp_path / "feats").exists()


def test_an_export_that_was_changed_is_told(home, call, tmp_path):
    files = tmp_path / "files"
    export_per_video(Features.open(home / "feats"), files)
    np.save(files / "five.npy", np.ones((T, EMBED), "<f2"))
    np.save(files / "new.npy", np.ones((T, EMBED), "<f2"))
    (files / "six.npy").unlink()
    (files / "seven.json").unlink()
    code, _, err = call("import", files, "-o", tmp_path / "feats")
    assert code == 3
    for line in (
        "five.npy: failed: invalid_data: changed since it was exported",
        "six.npy: failed: invalid_data: the file is missing",
        "seven.npy: failed: invalid_data: its .json is missing",
        "new.npy': left out: not one of the videos",
    ):
        assert line in err
    assert len(Features.open(tmp_path / "feats")) == len(NAMES) - 3
