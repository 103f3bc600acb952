"""Wrong, truncated and malicious files: one clear line, nothing executed, no great memory."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import random
import struct
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path

import clip_files
import numpy as np
import pytest
import torch
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


def rewrite(source, target, *, change=None, add=(), compress=()):
    """A copy of a zip file with records changed (None drops one), added or compressed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for record in old.infolist():
            name = record.filename.split("/", 1)[1]
            content = old.read(record)
            if change and name in change:
                content = change[name](content) if callable(change[name]) else change[name]
            if content is not None:
                how = zipfile.ZIP_DEFLATED if name in compress else zipfile.ZIP_STORED
                new.writestr(record.filename, content, how)
        for name, content in add:
            new.writestr(name, content)
    return target


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


# ---- wrong states


def without(*names):
    return {name: tensor for name, tensor in STATE.items() if name not in names}


WRONG = {
    "missing": (without("visual.proj", "ln_final.bias"), r"missing 2 \(ln_final.bias, visual.pr"),
    "unknown": ({**STATE, "visual.extra": torch.ones(1)}, r"unknown 1 \(visual.extra\)"),
    "misshapen": (
        {**STATE, "visual.proj": torch.ones(63, 32)},
        r"misshapen 1 \(visual.proj is \[63, 32\], not \[64, 32\]\)",
    ),
    "towers disagree": (
        {**STATE, "text_projection": torch.ones(64, 31)},
        r"text_projection is \[64, 31\], not \[64, 32\]",
    ),
    "no square": ({**STATE, "visual.positional_embedding": torch.ones(6, 64)}, "6 rows, not 1"),
    "no scale": (without("logit_scale"), r"missing 1 \(logit_scale\)"),
    "a block lacks": (
        without("visual.transformer.resblocks.1.ln_1.bias"),
        r"missing 1 \(visual.transformer.resblocks.1.ln_1.bias\)",
    ),
    "a gap": (
        {n.replace("s.1.", "s.999999999."): t for n, t in STATE.items()},
        r"missing 24 .*unknown 24",
    ),
    "other model": ({"fc.weight": torch.ones(2, 2)}, r"missing \d+ .*unknown 1 \(fc.weight\)"),
    "ResNet": ({"visual.layer1.0.conv1.weight": torch.ones(2, 2)}, "a ResNet CLIP"),
    "NaN": (
        {**STATE, "visual.proj": torch.full((64, 32), torch.nan)},
        r"NaN or infinity in 1 \(visual.proj\)",
    ),
    "infinity": ({**STATE, "logit_scale": torch.tensor(-torch.inf)}, r"infinity in 1 \(logit_sc"),
    "beyond float32": (
        {**STATE, "logit_scale": torch.tensor(1e300, dtype=torch.float64)},
        "infinity in 1",
    ),
    "integers": ({**STATE, "logit_scale": torch.tensor(3)}, r"not floating point: 1 \(logit_sc"),
    "scalar table": ({**STATE, "visual.positional_embedding": torch.tensor(1.0)}, "misshapen 1"),
    "empty table": ({**STATE, "token_embedding.weight": torch.ones(0, 64)}, "misshapen 1"),
    "sparse": ({**STATE, "ln_final.bias": torch.eye(3).to_sparse()}, "sparse, quantized"),
    "expanded": (
        {**STATE, "token_embedding.weight": torch.ones(1, 1).expand(10**7, 64)},
        "more than its storage",
    ),
    "other format": ({**STATE, "format": "theirs/2"}, "'theirs/2'; this ttvr reads 'ttvr-run/1'"),
    "run without clip": ({"format": "ttvr-run/1", "head": {}}, "a ttvr run without 'clip'"),
    "run of nonsense": ({"format": "ttvr-run/1", "clip": STATE, "head": 3}, "'head' is no dict"),
    "odd activation": (
        {"format": "ttvr-run/1", "clip": STATE, "activation": "relu"},
        "activation 'relu' is none of quick_gelu, gelu",
    ),
}


@pytest.mark.parametrize(("content", "match"), WRONG.values(), ids=WRONG)
def test_wrong_state(content, match, tmp_path):
    torch.save(content, tmp_path / "wrong.pt")
    refuse(tmp_path / "wrong.pt", match)


def test_finite_weights_whose_sum_is_infinite_load(tmp_path):
    state = {**STATE, "visual.proj": torch.full((64, 32), 3e38)}
    torch.save(state, tmp_path / "big.pt")
    assert weights.load(tmp_path / "big.pt")["visual.proj"].max() > 1e38


def test_overlapping_tensors_are_not_multiplied(tmp_path):
    table = torch.ones(3000, 1000)
    torch.save({f"t{i}": table for i in range(1000)}, tmp_path / "tied.pt")
    refuse(tmp_path / "tied.pt", "12000000000 bytes of tensors overlap")


def test_hugging_face_with_parts_missing_or_odd(tmp_path):
    theirs = clip_files.hugging_face(STATE)
    key = "vision_model.encoder.layers.1.self_attn.k_proj.weight"
    torch.save({n: t for n, t in theirs.items() if n != key}, tmp_path / "a.bin")
    refuse(tmp_path / "a.bin", r"resblocks.1.attn.in_proj_weight cannot.*self_attn.k_proj")
    torch.save({**theirs, key: torch.ones(2, 64)}, tmp_path / "b.bin")
    refuse(tmp_path / "b.bin", r"resblocks.1.attn.in_proj_weight cannot.*\(2, 64\)")
    extra = "text_model.encoder.layers.0.self_attn.rotary.weight"
    torch.save({**theirs, extra: torch.ones(2)}, tmp_path / "c.bin")
    refuse(tmp_path / "c.bin", f"unknown 1 .{extra}")


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


# ---- storages and records that lie


def tensor_pickle(*, size, stride, offset=0, kind="Float", key="0", count=4):
    """A module with one tensor `w`, with these numbers in its record."""
    out = io.BytesIO()

    class Storage:
        pass

    class Rebuild:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (Storage(), offset, size, stride, False, None)

    class Writer(pickle.Pickler):
        def persistent_id(self, thing):
            kinds = getattr(torch, f"{kind}Storage")
            return ("storage", kinds, key, "cpu", count) if isinstance(thing, Storage) else None

    Writer(out, protocol=2).dump({"w": Rebuild()})
    return out.getvalue()


LIES = {
    "beyond": ({"size": (5,), "stride": (1,)}, "does not fit"),
    "strided beyond": ({"size": (2,), "stride": (4,)}, "does not fit"),
    "offset beyond": ({"size": (2,), "stride": (1,), "offset": 3}, "does not fit"),
    "expanded": ({"size": (10**9,), "stride": (0,)}, "does not fit"),
    "negative stride": ({"size": (2,), "stride": (-1,), "offset": 3}, "refused: a tensor of size"),
    "negative offset": ({"size": (2,), "stride": (1,), "offset": -1}, "refused: a tensor of size"),
    "negative size": ({"size": (-2, -2), "stride": (1, 1)}, "refused: a tensor of size"),
    "huge": ({"size": (2**70, 0), "stride": (1, 1)}, "refused: a tensor of size"),
    "ranks differ": ({"size": (2, 2), "stride": (1,)}, "refused: a tensor of size"),
    "many dimensions": ({"size": (1,) * 9, "stride": (1,) * 9}, "refused: a tensor of size"),
    "float size": ({"size": (2.0,), "stride": (1,)}, "sizes are no numbers"),
    "no tuple": ({"size": 3, "stride": (1,)}, "damaged"),
    "count beyond record": ({"size": (5,), "stride": (1,), "count": 5}, "has 16 bytes, 5 x 4"),
    "count huge": ({"size": (5,), "stride": (1,), "count": 2**62}, "has 16 bytes"),
    "count negative": ({"size": (5,), "stride": (1,), "count": -4}, "has 16 bytes"),
    "wider kind": ({"size": (4,), "stride": (1,), "kind": "Double"}, "has 16 bytes, 4 x 8"),
    "no record": ({"size": (4,), "stride": (1,), "key": "7"}, "record 'a/data/7' is missing"),
    "traversal": ({"size": (4,), "stride": (1,), "key": "../x"}, "is missing"),
}


@pytest.mark.parametrize(("lie", "match"), LIES.values(), ids=LIES)
def test_storage_that_is_not_what_the_pickle_says(lie, match, tmp_path):
    path = tmp_path / "lie.pt"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("a/data.pkl", tensor_pickle(**lie))
        made.writestr("a/constants.pkl", pickle.dumps((), protocol=2))
        made.writestr("a/data/0", np.arange(4, dtype="<f4").tobytes())
        made.writestr("a/x", b"0123456789abcdef")
    refuse(path, match)
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("a/data.pkl", tensor_pickle(**lie))
        made.writestr("a/version", "3")
        made.writestr("a/data/0", np.arange(4, dtype="<f4").tobytes())
    refuse(path)


@pytest.mark.parametrize(
    ("numbers", "values"),
    [
        ({"size": (2, 2), "stride": (1, 2)}, [[0, 2], [1, 3]]),
        ({"size": (3,), "stride": (1,), "offset": 1}, [1, 2, 3]),
        ({"size": (2,), "stride": (0,), "offset": 3}, [3, 3]),
        ({"size": (), "stride": (), "offset": 2}, 2),
        ({"size": (0, 3), "stride": (3, 1)}, []),
    ],
)
def test_storage_views(numbers, values, tmp_path):
    path = tmp_path / "view.pt"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("a/data.pkl", tensor_pickle(**numbers))
        made.writestr("a/constants.pkl", b"\x80\x02).")
        made.writestr("a/data/0", np.arange(4, dtype="<f4").tobytes())
    tensors, _ = _archive.read(path, _archive.records(path))
    assert tensors["w"].tolist() == values


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "a\\..\\evil"])
def test_record_names_that_point_elsewhere(name, archive, tmp_path):
    refuse(rewrite(archive, tmp_path / "t.pt", add=[(name, b"x")]), "points elsewhere")


def test_records_missing_doubled_compressed_or_of_other_byte_order(archive, tmp_path):
    path = tmp_path / "r.pt"
    refuse(rewrite(archive, path, change={"data/3": None}), "data/3' is missing")
    refuse(rewrite(archive, path, change={"byteorder": b"big"}), "another byte order")
    refuse(rewrite(archive, path, compress=["data/3"]), "compressed, which torch never does")
    with pytest.warns(UserWarning, match="Duplicate"):
        rewrite(archive, path, add=[("ViT/data/0", b"0")])
    refuse(path, "two records named")
    refuse(rewrite(archive, path, change={"data/3": lambda c: c[:-1]}), "bytes, .* are needed")
    refuse(rewrite(archive, path, add=[("ViT/extra/ttvr.json", b"[]")]), "its label is damaged")
    rewrite(archive, path, compress=["data.pkl"])
    assert weights.fingerprint(weights.load(path)) == weights.fingerprint(STATE)
    torch.save(STATE, tmp_path / "s.pt")
    refuse(rewrite(tmp_path / "s.pt", path, compress=["data/0"]), "compressed, which torch never")
    refuse(rewrite(tmp_path / "s.pt", path, change={"data/0": b"short"}), "truncated or damaged")


def test_objects_that_hold_themselves(archive, tmp_path):
    loop = b"\x80\x02c__torch__\nM\n)\x81q\x00}X\x01\x00\x00\x00ah\x00sb."
    path = rewrite(archive, tmp_path / "loop.pt", change={"data.pkl": loop})
    refuse(path, "nested beyond all reason")
    # Each level holds the one below twice: 2**60 paths through 60 objects.
    level = b"}(X\x01\x00\x00\x00ah%cX\x01\x00\x00\x00bh%cuq%c"
    levels = (level % (i, i, i + 1) for i in range(60))
    double = b"\x80\x02}q\x00" + b"".join(levels) + b"."
    path = rewrite(archive, tmp_path / "double.pt", change={"data.pkl": double})
    refuse(path, "beyond all reason")


def test_sizes_in_the_zip_that_lie(archive, tmp_path):
    content = bytearray(archive.read_bytes())
    at = content.rindex(b"PK\x01\x02")
    for field, size in ((20, 4), (24, 4), (42, 4)):
        damaged = bytearray(content)
        damaged[at + field : at + field + size] = struct.pack("<I", 0x7FFFFFF0)
        (tmp_path / "z.pt").write_bytes(damaged)
        refuse(tmp_path / "z.pt", "truncated|damaged")


# ---- bombs

BOMBS = """
import resource, sys
import torch
from ttvr.clip import weights
from ttvr.errors import TtvrError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        weights.load(path)
        print("loaded", path)
    except TtvrError as error:
        print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def npz(path, **arrays):
    np.savez_compressed(path, format=np.str_("ttvr-npz/1"), **arrays)
    return path


def legacy_bomb(path):
    """torch's old format, announcing a storage of 2**40 elements."""
    torch.save({"w": torch.ones(4)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert content.count(struct.pack("<q", 4)) == 1
    path.write_bytes(content.replace(struct.pack("<q", 4), struct.pack("<q", 1 << 40)))
    return path


def test_bombs_take_no_memory(archive, tmp_path):
    zeros = bytes(300 << 20)
    lists = b"\x80\x02" + b"]" * (8 << 20)
    table = {
        "token_rows": np.zeros(1, np.int64),
        "token_embedding.rows": np.ones((1, 1 << 20), "f2"),
    }
    bombs = [
        rewrite(archive, tmp_path / "pickle.pt", change={"data.pkl": zeros}, compress=["data.pkl"]),
        rewrite(archive, tmp_path / "lists.pt", change={"data.pkl": lists}, compress=["data.pkl"]),
        rewrite(archive, tmp_path / "storage.pt", change={"data/0": zeros}, compress=["data/0"]),
        npz(tmp_path / "array.npz", **{"visual.proj": np.zeros((300 << 20) // 2, "f2")}),
        npz(tmp_path / "table.npz", vocab_size=np.int64(1 << 40), **table),
        npz(tmp_path / "wide.npz", vocab_size=np.int64(1 << 20), **table),
        legacy_bomb(tmp_path / "legacy.pt"),
    ]
    torch.save(STATE, tmp_path / "s.pt")
    state = tmp_path / "state.pt"
    bombs.append(
        rewrite(tmp_path / "s.pt", state, change={"data.pkl": zeros}, compress=["data.pkl"])
    )
    huge = tmp_path / "memo.pt"
    memo = b"\x80\x02]r\xff\xff\xff\x7f."
    bombs.append(rewrite(archive, huge, change={"data.pkl": memo}))
    assert all(path.stat().st_size < 3 << 20 for path in bombs)
    command = [sys.executable, "-c", BOMBS, *map(str, bombs)]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=True)
    *lines, grown = done.stdout.splitlines()
    assert len(lines) == len(bombs)
    for path, line in zip(bombs, lines, strict=True):
        assert line.startswith(str(path)), line
    assert int(grown) < 100 << 10, f"{grown} KiB"


# ---- the embedded default's format


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"format": "ttvr-npz/2"}, "'ttvr-npz/2'; this ttvr reads 'ttvr-npz/1'"),
        ({"token_rows": None}, "needs token_rows, token_embedding.rows, vocab_size"),
        ({"vocab_size": np.float32(3)}, "make no table"),
        ({"vocab_size": np.int64(5)}, "ascend within 0..4"),
        ({"vocab_size": np.int64(-5)}, "refused: a token table of -5"),
        ({"token_rows": np.zeros(3, np.int64)}, "make no table"),
        ({"token_embedding.rows": np.zeros(3, np.float16)}, "make no table"),
        ({"visual.proj": np.zeros((64, 32), np.int8)}, "visual.proj is of dtype int8"),
        ({"visual.proj": np.array([{"a": 1}], dtype=object)}, "visual.proj.npy is damaged"),
        ({"visual.proj": np.array(["a"])}, "visual.proj is of dtype <U1"),
        ({"activation": np.str_("relu")}, "activation 'relu'"),
    ],
)
def test_wrong_npz(change, match, tmp_path):
    from test_weights import as_npz

    refuse(as_npz(tmp_path / "t.npz", **change), match)


def test_npz_whose_header_lies(tmp_path):
    def lying(shape):
        out = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            out, {"descr": "<f2", "fortran_order": False, "shape": shape}
        )
        return out.getvalue() + bytes(64)

    for shape in ((10**12,), (-1,), (0,), (2**40, 2**40)):
        with zipfile.ZipFile(tmp_path / "h.npz", "w") as made:
            with made.open("format.npy", "w") as file:
                np.lib.format.write_array(file, np.array("ttvr-npz/1"))
            made.writestr("visual.proj.npy", lying(shape))
        refuse(tmp_path / "h.npz", "visual.proj.npy is damaged")
