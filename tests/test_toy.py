"""The embedded default: what is said of it, where, and that its file is the one that is listed."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
from feature_folder import write_features
from PIL import Image
from tiny import tiny_state

import ttvr
from ttvr import plugins, search
from ttvr.clip import catalog, weights
from ttvr.commands import eval as eval_command
from ttvr.commands import extract, rank
from ttvr.commands import weights as weights_command
from ttvr.commands._toy import warn_of_toy
from ttvr.errors import RequirementError

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "weights" / "ttvr-tiny.npz"
NAMES = {"holiday": "holiday.mp4", "test-00001": "test-00001.mp4"}
DRAWN = {"a/test-00000": "a/test-00000.mp4", "twins-00001r": "twins-00001r.mp4"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Weights that call themselves a toy, folders of features, a real and a drawn video."""
    home = tmp_path_factory.mktemp("toy")
    state = tiny_state(vocabulary=49408)
    weights.save(state, home / "ttvr-tiny.npz", note=weights.TOY)
    weights.save(state, home / "other.npz")
    toy = ttvr.load(home / "ttvr-tiny.npz")
    write_features(home / "real-feats", toy, names=NAMES)
    write_features(home / "drawn-feats", toy, names=DRAWN)
    write_features(home / "other-feats", ttvr.load(home / "other.npz"), names=NAMES)
    for name in ("real/holiday", "drawn/test-00001", "drawn/broken"):
        (home / name).mkdir(parents=True)
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(home / name / "0.png")
    return home


@pytest.fixture
def said(home, monkeypatch, capsys):
    """Run a command in `home`; how often it warns of the toy."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("TTVR_WEIGHTS", str(home))

    def run(main, *argv):
        assert main([*map(str, argv), "--device", "cpu"]) == 0
        out, err = capsys.readouterr()
        assert "toy" not in out.partition("# split")[0]
        assert "call themselves" not in err
        return err.count("ttvr-weights fetch ViT-B/32")

    return run


def test_the_default_on_videos_that_are_not_drawn(said, tmp_path):
    assert said(extract.main, "real", "-o", tmp_path / "a") == 1
    assert said(extract.main, "-q", "real", "-o", tmp_path / "b") == 0
    assert said(extract.main, "drawn", "-o", tmp_path / "c") == 0
    assert said(extract.main, "real", "drawn", "-o", tmp_path / "d") == 1
    assert said(extract.main, "real", "-o", tmp_path / "e", "-w", "other.npz") == 0
    assert said(extract.main, "real", "-o", tmp_path / "f", "-w", "ttvr-tiny.npz") == 1


@pytest.mark.parametrize(("feats", "times"), [("real", 1), ("drawn", 0), ("other", 0)])
def test_its_features(said, feats, times, tmp_path):
    folder = f"{feats}-feats"
    assert said(rank.main, "--query", "a dog", folder) == times
    video = "test-00001" if feats != "drawn" else "twins-00001r"
    (tmp_path / "gt.tsv").write_text(f"a dog\t{video}\n")
    assert said(eval_command.main, folder, "--gt", tmp_path / "gt.tsv") == times


def test_every_clip_of_ours_is_known_by_its_name(caplog):
    dataset = plugins.load("datasets", "synthetic")
    with caplog.at_level(logging.WARNING):
        for split in dataset.splits:
            ids = [clip.id for clip in dataset.load(None, split, limit=20).clips]
            assert len(ids) == 20
            warn_of_toy(catalog.TOY, [*ids, *(f"deep/er/{one}" for one in ids), "broken"])
        assert not caplog.records
        odd = ("test-1", "test-1x", "test-00001r", "test-000001", "train-00001", "twins-1r")
        odd += (
            "my-test-00001",
            "holiday",
            "broken/a",
            "test-00001/a",
            "test-\u0661\u0661\u0661\u0661\u0661",
            "",
        )
        for one in odd:
            warn_of_toy(catalog.TOY, ["test-00001", one])
        warn_of_toy(catalog.TOY, ["broken"])  # is nobody's but beside clips of ours
        warn_of_toy(catalog.TOY, ["test-00001", "holiday/broken"])
    assert len(caplog.records) == len(odd) + 2
    for note in (catalog.RANDOM, ""):
        warn_of_toy(note, ["holiday"])
    assert len(caplog.records) == len(odd) + 2


def test_its_label_is_read_without_loading(home, tmp_path):
    assert catalog.label(home / "ttvr-tiny.npz") == catalog.TOY
    assert catalog.label(home / "other.npz") == ""
    np.savez(tmp_path / "odd.npz", format="x", note=np.zeros(3))
    assert catalog.label(tmp_path / "odd.npz") == ""
    np.savez(tmp_path / "odd.npz", format="x", note="line\nbreak")
    assert catalog.label(tmp_path / "odd.npz") == ""


def test_what_is_shipped_is_not_fetched(monkeypatch, tmp_path, capsys):
    entry = catalog.find("default")
    assert entry is catalog.find("ttvr-tiny")
    assert entry._replace(sha256="0" * 64).url == ""
    assert weights_command.main(["fetch", "default"]) == 2
    monkeypatch.setattr(catalog, "_PACKAGE", tmp_path / "ttvr")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TTVR_WEIGHTS", raising=False)
    with pytest.raises(RequirementError, match="install ttvr again"):
        catalog.locate("default")
    capsys.readouterr()


def test_its_hash_is_verified_and_listed(home, monkeypatch, capsys):
    monkeypatch.setenv("TTVR_WEIGHTS", str(home))
    digest = hashlib.sha256((home / "ttvr-tiny.npz").read_bytes()).hexdigest()
    for sha256, code in ((digest, 0), ("0" * 64, 1)):
        first = catalog.ENTRIES[0]._replace(sha256=sha256)
        monkeypatch.setattr(catalog, "ENTRIES", (first, *catalog.ENTRIES[1:]))
        assert weights_command.main(["verify", "default", "--json"]) == code
        out, err = capsys.readouterr()
        if code:
            assert "install ttvr again" in err
        else:
            facts = json.loads(out)
            assert (facts["known"], facts["note"]) == ("ttvr-tiny", catalog.TOY)
        assert weights_command.main(["list", "--json"]) == 0
        row = json.loads(capsys.readouterr().out)[0]
        assert (row["sha256"], row["note"]) == (sha256, catalog.TOY)


def test_the_table_of_the_readme_is_the_catalog():
    """Of every file of OpenAI's, and of the default once it is there."""
    text = (ROOT / "weights" / "README.md").read_text()
    rows = re.findall(r"^\| (\S+) \| (\S+) \| (\d+) MB \| ([0-9a-f]{64}) \|$", text, re.MULTILINE)
    listed = [entry for entry in catalog.ENTRIES if entry.sha256]
    found = [(entry.name, entry.file, str(entry.megabytes), entry.sha256) for entry in listed]
    assert sorted(rows) == sorted(found)


@pytest.mark.skipif(not SHIPPED.exists(), reason="weights/ttvr-tiny.npz is absent")
def test_the_file_that_is_shipped():
    entry = catalog.ENTRIES[0]
    assert hashlib.sha256(SHIPPED.read_bytes()).hexdigest() == entry.sha256
    assert entry.megabytes == round(SHIPPED.stat().st_size / 10**6)
    assert catalog.label(SHIPPED) == catalog.TOY
    model = ttvr.load(SHIPPED)
    clip = model.clip
    assert (clip.image_size, clip.context_length, clip.width) == (64, 77, 128)
    assert model.head_name == "meanp"
    known = len(clip.token_embedding.weight) - len(clip.unseen_tokens())
    dataset = plugins.load("datasets", "synthetic")
    for split in ("val", "test"):
        assert search.unknown_words(model, dataset.load(None, split).captions) == []
    assert known < 1000
