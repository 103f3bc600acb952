"""Archives whose records lie: about sizes, names, offsets, and how large they unpack."""

from __future__ import annotations

import io
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import clip_files
import numpy as np
import pytest
import torch
from clip_files import rewrite
from test_weights_hostile import refuse

from ttvr.clip import _archive, weights

STATE = clip_files.state()


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return clip_files.archive(tmp_path_factory.mktemp("archive") / "ViT.pt")


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
