"""Archives whose records lie: about sizes, names, offsets, and how large they unpack."""

from __future__ import annotations

import io
import pickle
import random
import struct
import zipfile
from contextlib import suppress

import clip_files
import numpy as np
import pytest
import torch
from clip_files import rewrite
from test_weights_hostile import refuse

from ttvr.clip import _archive, catalog, weights
from ttvr.errors import TtvrError

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
    "empty and huge": ({"size": (0, 2**39, 2**39), "stride": (1, 1, 1)}, "refused: a tensor of"),
    "endless": ({"size": (2,) * 9999, "stride": (1,) * 9999}, "sizes in 9999, strides in 9999"),
    "long numbers": ({"size": (2**2000,), "stride": (1,)}, "refused: a tensor of size"),
    "long count": ({"size": (5,), "stride": (1,), "count": 2**2000}, "has 16 bytes"),
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


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_methods_of_compression_that_nobody_uses(method, tmp_path):
    path = tmp_path / "m.pt"
    for record in ("a/data.pkl", "a/extra/ttvr.json", "format.npy"):
        with zipfile.ZipFile(path, "w") as made:
            made.writestr("a/constants.pkl", b"\x80\x02).")
            made.writestr(record, b'{"note": "x"}' * 9, method)
        refuse(path, "by a method that neither")
        assert catalog.label(path) == ""
        with pytest.raises(TtvrError, match="by a method that neither"):
            weights.verify(path)


def test_a_folder_in_a_folder(archive, tmp_path):
    path = tmp_path / "nested.pt"
    for name in ("a/b", "a/b/c"):
        with zipfile.ZipFile(path, "w") as made, zipfile.ZipFile(archive) as old:
            for record in old.infolist():
                made.writestr(record.filename.replace("ViT", name, 1), old.read(record))
        assert weights.fingerprint(weights.verify(path).clip) == weights.fingerprint(STATE)


LABELS = {
    "deep": b"[" * 60_000,
    "deep note": b'{"note": ' + b"[" * 60_000,
    "list": b"[]",
    "no UTF-8": b'{"note": "\xff"}',
    "number": b'{"note": 3}',
    "cut": b'{"note": "x',
}


@pytest.mark.parametrize("label", LABELS.values(), ids=LABELS)
def test_labels_that_are_damaged(label, archive, tmp_path):
    path = rewrite(archive, tmp_path / "label.pt", add=[("ViT/extra/ttvr.json", label)])
    assert catalog.label(path) == ""
    refuse(path, "its label is damaged")


def test_damage_is_never_another_error(archive, tmp_path):
    path = tmp_path / "label.pt"
    label = ("ViT/extra/ttvr.json", b'{"note": "random"}' + bytes(20))
    rewrite(archive, path, add=[label], compress=["extra/ttvr.json", "data.pkl"])
    content = path.read_bytes()
    edges = [*range(200), *range(len(content) - 3000, len(content))]
    generator = random.Random(0)
    for _ in range(200):
        damaged = bytearray(content)
        for _ in range(generator.choice((1, 2, 5))):
            damaged[generator.choice(edges)] = generator.randrange(256)
        path.write_bytes(damaged)
        assert isinstance(catalog.label(path), str)
        with suppress(TtvrError):
            weights.verify(path)


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
