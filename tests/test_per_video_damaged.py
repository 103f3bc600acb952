"""Files per video that are torn, hostile or changed: one line each, and nothing else is touched."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
from feature_folder import write_exported
from store_files import quick  # noqa: F401
from tiny import EMBED

from ttvr import retriever
from ttvr.commands import data as command
from ttvr.errors import IncompatibleError, UsageError
from ttvr.extract import run_import
from ttvr.store import Features, Files, Source, Taken, export_per_video, find_per_video
from ttvr.store import read_per_video as read

ORIGIN = "ttvr-features.json"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """clip.pt, feats/ made with it, and files/ exported of them."""
    return write_exported(tmp_path_factory.mktemp("home"))


@pytest.fixture
def files(home, tmp_path):
    return shutil.copytree(home / "files", tmp_path / "files")


@pytest.fixture
def call(capsys):
    def run(*arguments):
        code = command.main([str(argument) for argument in (*arguments, "--progress", "never")])
        return code, capsys.readouterr().err

    return run


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def header(text):
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def shaped(shape):
    return header(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "content",
    [
        shaped(f"({10**30}, 2)"),
        shaped(f"({2**62}, 2)"),
        shaped("(-1, 2)"),
        shaped("(True, 2)"),
        shaped("(1, 2)") + bytes(1000),
        header("{'descr': ("),
        header("-" * 9000 + "1"),
        header("-" * 20_000 + "1"),
        header("{[]: 1}\n"),
        b"PK\x03\x04 no archive",
        b"",
    ],
    ids=[
        "huge",
        "wrapped",
        "below 0",
        "bool",
        "longer",
        "torn",
        "deep",
        "long",
        "odd",
        "zip",
        "empty",
    ],
)
def test_arrays_that_numpy_fails_on(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    source = Source("a", str(tmp_path), "a.npy", None, None)
    found = Files(tmp_path, [source], None, [])
    assert found.shape(source) is None
    outcome = read(found, source, Taken(4, 2, 2, "<f2", lambda frames: frames[0]))
    assert (outcome.row, outcome.facts["error"]) == (None, "invalid_data")
    assert "\n" not in outcome.facts["detail"]
    assert "allow_pickle" not in outcome.facts["detail"]  # numpy's advice


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.npy")
    found = find_per_video(tmp_path)
    assert found.shape(found.sources[0]) is None


def test_a_folder_that_no_journal_can_name_is_refused(tmp_path):
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    np.save(folder / "a.npy", np.ones((1, 1)))
    with pytest.raises(UsageError, match=r"udcff': a folder that is not UTF-8"):
        find_per_video(folder)


def test_linked_folders_are_searched_once(tmp_path):
    folder, other = tmp_path / "files", tmp_path / "other"
    for path in (folder / "odd.npy", other, folder / ".hidden"):
        path.mkdir(parents=True)
        np.save(path / "a.npy", np.ones((1, 1)))
    (folder / "linked").symlink_to(other)
    (other / "back").symlink_to(folder)
    (folder / "gone.npy").symlink_to(tmp_path / "nowhere")
    found = find_per_video(folder)
    assert [source.id for source in found.sources] == ["gone", "linked/a", "odd.npy/a"]
    assert found.shape(found.sources[0]) is None


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("array", "said", "message"),
    [
        ([[1.0, 0.0], [-1.0, 0.0]], None, "no unit vector of 2 numbers"),
        ([[1e300, 1.0]], None, "too large for float32"),
        ([[1e6, 1.0]], None, "too large for float16; --dtype float32 takes more"),
        ([[0.0, 0.0], [1.0, 0.0]], None, "a frame of zeros alone"),
        ([[1e-30, 0.0]], None, "too small for float32"),
        ([[1e-9, 0.0]], None, "too small for float16; --dtype float32 takes more"),
        ([[1.0, 1.0]], '{"times": [1e999]}', "times of its .json are no numbers"),
        ([[1.0, 1.0]], f'{{"times": [{10**400}]}}', "times of its .json are no numbers"),
        ([[1.0, 1.0]], "[" * 100_000, "is not JSON"),
    ],
)
def test_numbers_that_no_row_can_hold(tmp_path, array, said, message):
    np.save(tmp_path / "a.npy", np.array(array))
    if said is not None:
        (tmp_path / "a.json").write_text(said)
    found = find_per_video(tmp_path)

    def unit(frames):
        with np.errstate(invalid="ignore"):
            return (mean := frames.mean(axis=0)) / np.linalg.norm(mean)

    outcome = read(found, found.sources[0], Taken(2, 2, 2, "<f2", unit))
    assert outcome.row is None
    assert message in outcome.facts["detail"]


def test_what_a_journal_cannot_say_is_not_taken(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((1, 1)))
    facts = {"path": "\ud800", "duration": float("nan"), "rotation": True, "decoder_errors": 2}
    (tmp_path / "a.json").write_text(json.dumps(facts))
    found = find_per_video(tmp_path)
    outcome = read(found, found.sources[0], Taken(1, 1, 1, "<f2", lambda frames: frames[0]))
    assert outcome.facts == {"status": "ok", "frames": 1, "decoder_errors": 2}


@pytest.mark.parametrize("id", ["../victim", "/victim", "a\nb", 1, ["a"]])
def test_a_list_that_leads_elsewhere_is_refused(home, files, call, tmp_path, id):
    (tmp_path / "victim.npy").touch()
    change(files / ORIGIN, ids=["five", id])
    for arguments in (
        ("export", home / "feats", "--per-video", "-o", files, "--overwrite"),
        ("import", files, "-o", tmp_path / "back"),
    ):
        code, err = call(*arguments)
        assert (code, err.count("\n")) == (1, 1)
        assert "ttvr-features.json is damaged" in err
    assert (tmp_path / "victim.npy").exists()
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize(
    "values",
    [
        {"frames": "3"},
        {"frames": 10**13},
        {"shard_rows": 0},
        {"shard_rows": 10**30},
        {"dim": None},
        {"dtype": "|O"},
        {"model": None},
    ],
)
def test_settings_that_cannot_be_are_refused(files, call, tmp_path, values):
    meta = json.loads((files / ORIGIN).read_text())["meta"]
    change(files / ORIGIN, meta=meta | values)
    code, err = call("import", files, "-o", tmp_path / "back")
    assert (code, err.count("\n")) == (1, 1)
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("vector", [[1.0], [0.0] * EMBED, [10**400] * EMBED])
def test_a_changed_vector_has_no_row(files, call, tmp_path, vector):
    change(files / "five.json", vector=vector)
    code, err = call("import", files, "-o", tmp_path / "back")
    assert code == 3
    assert "five.npy: failed: invalid_data" in err
    assert "five" not in Features.open(tmp_path / "back").ids


def test_an_export_of_other_videos_stays(home, files):
    features = Features.open(home / "feats")
    change(files / ORIGIN, ids=["theirs"])
    (files / "theirs.npy").touch()
    with pytest.raises(IncompatibleError, match="1 other video, none of them in"):
        export_per_video(features, files)
    assert (files / "theirs.npy").exists()
    assert export_per_video(features, files, overwrite=True).removed == 1


def test_a_killed_export_does_not_forget_what_it_has_to_remove(home, files, monkeypatch):
    features = Features.open(home / "feats")
    change(files / ORIGIN, ids=[*features.ids, "gone"])
    (files / "gone.npy").touch()

    def stop(path, missing_ok):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.unlink", stop)
        with pytest.raises(KeyboardInterrupt):
            export_per_video(features, files)
    assert json.loads((files / ORIGIN).read_text())["state"] == "incomplete"
    assert export_per_video(features, files).removed == 1
    assert not (files / "gone.npy").exists()


def test_an_import_without_times_goes_on(home, tmp_path):
    folder, chance = tmp_path / "foreign", np.random.default_rng(0)
    folder.mkdir()
    for name in "abc":
        np.save(folder / f"{name}.npy", chance.standard_normal((2, EMBED)))
    common = {"retriever": retriever.load(home / "clip.pt"), "provenance": {}}

    def stop(status, kept):
        stop.left -= 1
        if not stop.left:
            raise KeyboardInterrupt

    stop.left = 2
    with pytest.raises(KeyboardInterrupt):
        run_import(find_per_video(folder), tmp_path / "feats", on_step=stop, **common)
    assert run_import(find_per_video(folder), tmp_path / "feats", **common).kept == 2
