"""`ttvr-data import`: what it says of other files and of itself, and what it does not take."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
from feature_folder import write_exported
from store_files import quick  # noqa: F401
from tiny import EMBED

from ttvr.commands import data as command
from ttvr.commands import rank
from ttvr.errors import TtvrError, UsageError
from ttvr.store import MOST_FRAMES, Features, Taken, find_per_video
from ttvr.store import read_per_video as read


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """clip.pt, feats/ made with it, and files/ exported of them."""
    return write_exported(tmp_path_factory.mktemp("home"))


@pytest.fixture
def foreign(tmp_path):
    """An array [2, 2] of another program."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    np.save(folder / "a.npy", np.ones((2, 2), "<f4"))
    return folder


def outcome(folder):
    found = find_per_video(folder)
    unit = np.array([1.0, 0.0])
    return read(found, found.sources[0], Taken(2, 2, 2, "<f4", lambda frames: unit))


def imported(files, out):
    return command.main(["import", str(files), "-o", str(out), "--progress", "never"])


def test_files_that_are_no_arrays_are_counted(home, tmp_path, capsys):
    files = shutil.copytree(home / "files", tmp_path / "files")
    assert imported(files, tmp_path / "feats") == 0
    assert "passed over" not in capsys.readouterr().err
    for name in ("captions.txt", "lonely.json", ".hidden"):
        (files / name).touch()
    assert imported(files, tmp_path / "feats") == 0
    assert "passed over, as no array: 2 files\n" in capsys.readouterr().err


def test_the_json_of_an_array_that_is_left_out_is_not_counted(home, tmp_path):
    files = shutil.copytree(home / "files", tmp_path / "files")
    (files / "six.npy").unlink()
    for name in ("new.npy", "new.json", "line\nbreak.npy"):
        (files / name).touch()
    found = find_per_video(files)
    assert (len(found.unnamed), found.others) == (2, 0)


@pytest.mark.parametrize("mark", ["items.jsonl", "texts.txt"])
def test_a_feature_folder_is_not_imported(foreign, mark):
    for name in ("meta.json", mark):
        (foreign / name).touch()
    with pytest.raises(UsageError, match="is a feature folder already"):
        find_per_video(foreign)
    (foreign / mark).unlink()
    assert len(find_per_video(foreign).sources) == 1


def test_an_unfinished_import_names_the_command_that_goes_on(home, tmp_path, monkeypatch):
    def stop(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("ttvr.store.Writer.finish", stop)
        assert imported(home / "files", tmp_path / "feats") == 130
    with pytest.raises(TtvrError, match="run the same ttvr-data import command again"):
        Features.open(tmp_path / "feats")
    meta = json.loads((tmp_path / "feats" / "meta.json").read_text())
    for provenance in ({}, None):
        changed = json.dumps(meta | {"provenance": provenance})
        (tmp_path / "feats" / "meta.json").write_text(changed)
        with pytest.raises(TtvrError, match="run the same ttvr-extract command again"):
            Features.open(tmp_path / "feats")


def test_who_ranks_files_per_video_hears_of_the_import(home, capsys):
    assert rank.main([str(home / "files"), "--query", "a dog"]) == 1
    assert f"make one: ttvr-data import {home / 'files'} -o feats/" in capsys.readouterr().err


def test_frames_are_those_of_the_array(foreign):
    (foreign / "a.json").write_text(json.dumps({"frames": 99, "path": "", "rotation": 90}))
    assert outcome(foreign).facts == {"status": "ok", "frames": 2, "rotation": 90}


def test_a_json_that_is_no_file_is_not_waited_for(foreign):
    os.mkfifo(foreign / "a.json")
    assert outcome(foreign).facts["detail"] == "a.json is no regular file"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("number", "message"), [(1e-30, "too small for float32"), (1e30, "too large for float32")]
)
def test_a_frame_whose_length_float32_cannot_hold_has_no_row(foreign, number, message):
    np.save(foreign / "a.npy", np.array([[1.0, 0.0], [number, number]]))
    assert outcome(foreign).facts["detail"] == f"numbers {message}"


def test_rows_that_no_memory_holds_are_refused(home, foreign, tmp_path):
    arguments = ["import", str(foreign), "-o", str(tmp_path / "feats"), "-w", str(home / "clip.pt")]
    np.save(foreign / "a.npy", np.ones((1, EMBED), "<f2"))
    assert command.main([*arguments, "--frames", str(MOST_FRAMES + 1)]) == 2
    assert not (tmp_path / "feats").exists()
