"""Where checkpoints are looked for, in which order, and what is said when there is none."""

from __future__ import annotations

import pytest

from ttvr.clip import weights
from ttvr.errors import RequirementError, TtvrError


@pytest.fixture(autouse=True)
def no_home(tmp_path, monkeypatch):
    """No checkpoint of this machine takes part."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TTVR_WEIGHTS", raising=False)
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)


def test_order(tmp_path, monkeypatch):
    folders = [tmp_path / "mine", tmp_path / "cwd" / "weights"]
    folders += [tmp_path / "home" / ".cache" / name for name in ("ttvr", "clip")]
    monkeypatch.setenv("TTVR_WEIGHTS", str(folders[0]))
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "ViT-B-32.pt").touch()
    for folder in folders:
        assert weights.locate("ViT-B/32") == folder / "ViT-B-32.pt"
        assert weights.locate("ViT-B-32.pt") == folder / "ViT-B-32.pt"
        (folder / "ViT-B-32.pt").unlink()


def test_a_path_wins_over_places_but_not_over_names(tmp_path, monkeypatch):
    (tmp_path / "cwd" / "ViT-B-32.pt").touch()
    (tmp_path / "cwd" / "default").touch()
    assert weights.locate("ViT-B-32.pt") == tmp_path / "cwd" / "ViT-B-32.pt"
    monkeypatch.setenv("TTVR_WEIGHTS", str(tmp_path / "cwd" / "ViT-B-32.pt"))
    assert weights.locate("default").name == "ViT-B-32.pt"
    assert weights.locate("./default") == tmp_path / "cwd" / "default"


def test_variable_may_name_the_default_file(tmp_path, monkeypatch):
    file = tmp_path / "any.pt"
    file.touch()
    monkeypatch.setenv("TTVR_WEIGHTS", str(file))
    assert weights.locate("default") == file
    with pytest.raises(RequirementError, match="ViT-B/16"):
        weights.locate("ViT-B/16")


def test_variable_that_names_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TTVR_WEIGHTS", str(tmp_path / "gone"))
    with pytest.raises(RequirementError, match="which does not exist"):
        weights.locate("default")


@pytest.mark.parametrize("name", ["ttvr-tiny", "ViT-L/14@336px", "ViT-B-16.pt"])
def test_not_found_says_where_and_how(name, monkeypatch, tmp_path):
    monkeypatch.setattr("ttvr.clip.catalog._PACKAGE", tmp_path / "ttvr")
    with pytest.raises(RequirementError) as caught:
        weights.locate(name)
    text = str(caught.value)
    wanted = "ViT-B/32" if name == "ttvr-tiny" else ""
    for part in ("$TTVR_WEIGHTS (not set)", ".cache/clip", f"fetch {wanted}", " MB", "sha256"):
        assert part in text
    assert "curl --create-dirs -C - -o " in text
    assert "https://openaipublic.azureedge.net/clip/models/" in text
    assert "\n" not in text


def test_neither_path_nor_name(tmp_path):
    with pytest.raises(RequirementError, match=r"no weights 'ViT-B-64'.*names are default"):
        weights.locate("ViT-B-64")
    with pytest.raises(TtvrError, match="a folder, not a checkpoint"):
        weights.locate(tmp_path)
    with pytest.raises(RequirementError):
        weights.locate("")
