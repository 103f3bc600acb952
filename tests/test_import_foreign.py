"""`ttvr-data import`: what it says of other files and of itself, and what it does not take."""

from __future__ import annotations

import json

import numpy as np
import pytest
from feature_folder import write_exported
from store_files import quick  # noqa: F401
from tiny import EMBED

from ttvr.commands import data as command
from ttvr.commands import rank
from ttvr.errors import TtvrError
from ttvr.store import MOST_FRAMES, Features


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


def imported(files, out):
    return command.main(["import", str(files), "-o", str(out), "--progress", "never"])


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


def test_rows_that_no_memory_holds_are_refused(home, foreign, tmp_path):
    arguments = ["import", str(foreign), "-o", str(tmp_path / "feats"), "-w", str(home / "clip.pt")]
    np.save(foreign / "a.npy", np.ones((1, EMBED), "<f2"))
    assert command.main([*arguments, "--frames", str(MOST_FRAMES + 1)]) == 2
    assert not (tmp_path / "feats").exists()
