"""Wrong, truncated and malicious files: one clear line, nothing executed, no great memory."""

from __future__ import annotations

import os
import pickle
import pickletools
import random
import struct
import zipfile
from contextlib import suppress

import clip_files
import pytest
import torch
from clip_files import rewrite
from safetensors.torch import save_file

from ttvr.clip import _archive, _pickle, weights
from ttvr.errors import TtvrError

STATE = clip_files.state()


def refuse(path, match=None):
    """The error for this file: one line that names it, and says `match`."""
    with pytest.raises(TtvrError, match=match) as caught:
        weights.load(path)
    text = str(caught.value)
    assert path.name in text
    assert "\n" not in text
    assert len(text) < 600
    return text


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return clip_files.archive(tmp_path_factory.mktemp("archive") / "ViT.pt")


# ---- not checkpoints at all

NOT_CHECKPOINTS = {
    "empty": (b"", "the file is empty"),
    "one byte": (b"P", "not a checkpoint: it starts with"),
    "text": (b"hello, this is no checkpoint\n", "not a checkpoint: it starts with"),
    "web page": (b"\n<!DOCTYPE html><html><body>404</body></html>", "a web page"),
    "old web page": (b"<HTML><head>", "a web page"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
    "zip magic alone": (b"PK\x03\x04", "truncated or damaged"),
    "pickle magic alone": (b"\x80\x02", "truncated or damaged"),
    "safetensors without end": (struct.pack("<Q", 1 << 60) + b"{}", "header of 11529"),
    "noise": (bytes(random.Random(0).randbytes(5000)), None),
}


@pytest.mark.parametrize(("content", "match"), NOT_CHECKPOINTS.values(), ids=NOT_CHECKPOINTS)
def test_not_a_checkpoint(content, match, tmp_path):
    path = tmp_path / "ViT-B-32-mine.pt"
    path.write_bytes(content)
    refuse(path, match)


def test_folder_fifo_and_other_zip(tmp_path):
    (tmp_path / "folder.pt").mkdir()
    refuse(tmp_path / "folder.pt", "a folder, not a checkpoint")
    os.mkfifo(tmp_path / "fifo.pt")
    refuse(tmp_path / "fifo.pt", "not a regular file")
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as made:
        made.writestr("letter.txt", "dear")
    refuse(tmp_path / "a.pt", "a zip file, but not a checkpoint")
    torch.save([torch.ones(3)], tmp_path / "list.pt")
    refuse(tmp_path / "list.pt", "holds a list, not a dictionary")
    torch.save({"epoch": 3}, tmp_path / "none.pt")
    refuse(tmp_path / "none.pt", "holds no tensors.*epoch")


def test_every_truncation_of_every_format_is_one_line(archive, tmp_path):
    save_file(STATE, tmp_path / "a.safetensors")
    torch.save(STATE, tmp_path / "a.pt")
    torch.save(STATE, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    weights.save(STATE, tmp_path / "a.npz")
    for source in (archive, *tmp_path.iterdir()):
        content = source.read_bytes()
        for part in (0.001, 0.03, 0.5, 0.97, 0.9999):
            path = tmp_path / f"cut{source.suffix}"
            path.write_bytes(content[: int(len(content) * part)])
            refuse(path, "truncated|damaged|empty")
            path.unlink()


@pytest.mark.parametrize("name", ["ViT.pt", "a.pt", "old.pt", "a.safetensors", "a.npz"])
def test_random_damage_never_escapes_as_another_error(name, archive, tmp_path):
    path = tmp_path / name
    if name == "ViT.pt":
        path.write_bytes(archive.read_bytes())
    elif name == "old.pt":
        torch.save(STATE, path, _use_new_zipfile_serialization=False)
    else:
        weights.save(STATE, path)
    content = path.read_bytes()
    # The headers, pickles and the zip's table lie here; damage in between only changes numbers.
    edges = [*range(3000), *range(len(content) - 12000, len(content))]
    generator = random.Random(0)
    for _ in range(60):
        damaged = bytearray(content)
        for _ in range(generator.choice((1, 3, 20))):
            damaged[generator.choice(edges)] = generator.randrange(256)
        path.write_bytes(damaged)
        with suppress(TtvrError):
            weights.load(path)


# ---- malicious pickles


class Attack:
    def __init__(self, call, *arguments):
        self.call = call, arguments

    def __reduce__(self):
        return self.call


def attacks(canary):
    """Pickles that would make a file, by the instructions that can call something."""
    command = f"touch {canary}"
    text = command.encode()
    system = b"cposix\nsystem\n"
    argument = b"X" + struct.pack("<I", len(text)) + text
    return {
        "reduce": b"\x80\x02" + system + b"(" + argument + b"tR.",
        "stack_global": pickle.dumps(Attack(os.system, command), protocol=4),
        "inst": b"(S'" + text + b"'\niposix\nsystem\n.",
        "obj": b"\x80\x02(" + system + argument + b"o.",
        "newobj": b"\x80\x02" + system + argument + b"\x85\x81.",
        "newobj_ex": b"\x80\x04" + system + argument + b"\x85}\x92.",
        "build": b"\x80\x02c__torch__\nM\n)\x81}X\x0c\x00\x00\x00__setstate__"
        + system
        + b"sb"
        + argument
        + b"b.",
        "eval": pickle.dumps(Attack(eval, f"__import__('os').system({command!r})"), protocol=2),
        "getattr": pickle.dumps(Attack(getattr, Attack, "system"), protocol=2),
        "torch function": b"\x80\x02ctorch.hub\nload\n(" + argument + b"tR.",
        "dotted": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2.__globals__\n)R.",
        "torch name": b"\x80\x02c__torch__os\nsystem\n(" + argument + b"tR.",
        "call a module": b"\x80\x02c__torch__.os\nsystem\n(" + argument + b"tR.",
        "ext": b"\x80\x02\x82\x01.",
        "persistent": b"\x80\x02P" + text + b"\n.",
    }


NAMES = list(attacks("x"))


@pytest.mark.parametrize("name", NAMES)
def test_malicious_archive(name, archive, tmp_path):
    canary = tmp_path / "canary"
    path = tmp_path / "evil.pt"
    rewrite(archive, path, change={"data.pkl": attacks(canary)[name]})
    refuse(path, "refused|damaged")
    rewrite(archive, path, change={"constants.pkl": attacks(canary)[name]})
    weights.load(path)
    assert not canary.exists()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["zip", "bare", "legacy"])
def test_malicious_state_dict(kind, name, tmp_path):
    canary = tmp_path / "canary"
    path, attack = tmp_path / "evil.bin", attacks(canary)[name]
    if kind == "zip":
        torch.save(STATE, tmp_path / "good.bin")
        rewrite(tmp_path / "good.bin", path, change={"data.pkl": attack})
    elif kind == "bare":
        path.write_bytes(attack)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=False)
        content = path.read_bytes()
        first = content.index(b".") + 1
        path.write_bytes(content[:first] + attack + content[first:])
    refuse(path)
    assert not canary.exists()


def test_the_attacks_work_where_nothing_stops_them(tmp_path):
    for name in ("reduce", "stack_global", "inst", "obj", "eval"):
        canary = tmp_path / name
        pickle.loads(attacks(canary)[name])
        assert canary.exists()


def test_a_refusal_names_what_was_asked_for(archive, tmp_path):
    path = tmp_path / "evil.pt"
    rewrite(archive, path, change={"data.pkl": attacks("x")["reduce"]})
    assert refuse(path, "posix.system, which is code")
    torch.save(Attack(os.system, "true"), path)
    assert refuse(path, "posix.system, which is code")


def test_pickle_machine_agrees_with_pickle_on_data():
    tree = {"a": [1, -5, 2**40, 1.5, None, True, False], "b": ("x", (), ("y", 3)), "c": {"d": 300}}
    pickled = pickle.dumps(tree, protocol=2)
    assert _pickle.run(pickled, None) == tree
    assert _pickle.run(pickletools.optimize(pickled), None) == tree


@pytest.mark.parametrize("error", [RuntimeError("a\nb" * 1000), RecursionError(), MemoryError()])
def test_whatever_reading_raises_is_one_line(error, archive, tmp_path, monkeypatch):
    def fail(*_):
        raise error

    path = tmp_path / "r.pt"
    path.write_bytes(archive.read_bytes())
    monkeypatch.setattr(_archive, "records", fail)
    refuse(path, rf"damaged, or no checkpoint \('?{type(error).__name__}: ")
    with pytest.raises(TtvrError, match=r"r\.pt: damaged"):
        weights.verify(path)


def test_noise_in_a_pickle_is_one_kind_of_error(archive):
    with zipfile.ZipFile(archive) as opened:
        name = next(n for n in opened.namelist() if n.endswith("data.pkl"))
        good = opened.read(name)
    generator = random.Random(1)
    for _ in range(400):
        damaged = bytearray(good)
        for _ in range(generator.choice((1, 2, 8))):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        with suppress(TtvrError):
            _pickle.run(bytes(damaged), lambda *_: torch.ones(1))
