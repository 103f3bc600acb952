"""Small files that would unpack to much: they are refused before the memory is taken."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import clip_files
import numpy as np
import torch
from clip_files import rewrite

from ttvr.clip import weights

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


def narrow_text_tower():
    """All of a text tower of width 1 but how many words it has."""
    block = "transformer.resblocks.0"
    shapes = {"positional_embedding": (77, 1), "text_projection": (1, 1)}
    shapes |= {"token_embedding.rows": (1, 1), f"{block}.attn.in_proj_weight": (3, 1)}
    shapes |= {f"{block}.attn.in_proj_bias": (3,), f"{block}.attn.out_proj.weight": (1, 1)}
    shapes |= {f"{block}.mlp.c_fc.weight": (4, 1), f"{block}.mlp.c_fc.bias": (4,)}
    shapes |= {f"{block}.mlp.c_proj.weight": (1, 4)}
    ones = ("attn.out_proj.bias", "mlp.c_proj.bias", "ln_1.weight", "ln_1.bias")
    ones = [f"{block}.{name}" for name in (*ones, "ln_2.weight", "ln_2.bias")]
    shapes |= dict.fromkeys([*ones, "ln_final.weight", "ln_final.bias"], (1,))
    made = {name: np.zeros(shape, "f2") for name, shape in shapes.items()}
    return {**made, "token_rows": np.zeros(1, np.int64)}


def test_the_narrow_text_tower_is_a_checkpoint(tmp_path):
    path = npz(tmp_path / "n.npz", vocab_size=np.int64(9), **narrow_text_tower())
    assert weights.load(path)["token_embedding.weight"].shape == (9, 1)


def legacy_bomb(path):
    """torch's old format, announcing a storage of 2**40 elements."""
    torch.save({"w": torch.ones(4)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert content.count(struct.pack("<q", 4)) == 1
    path.write_bytes(content.replace(struct.pack("<q", 4), struct.pack("<q", 1 << 40)))
    return path


def test_bombs_take_no_memory(tmp_path):
    archive = clip_files.archive(tmp_path / "ViT.pt")
    # Above what is allowed to be taken, and still quick to compress.
    zeros = bytes(128 << 20)
    lists = b"\x80\x02" + b"]" * (8 << 20)
    table = {
        "token_rows": np.zeros(1, np.int64),
        "token_embedding.rows": np.ones((1, 1 << 20), "f2"),
    }
    bombs = [
        rewrite(archive, tmp_path / "pickle.pt", change={"data.pkl": zeros}, compress=["data.pkl"]),
        rewrite(archive, tmp_path / "lists.pt", change={"data.pkl": lists}, compress=["data.pkl"]),
        rewrite(archive, tmp_path / "storage.pt", change={"data/0": zeros}, compress=["data/0"]),
        npz(tmp_path / "array.npz", **{"visual.proj": np.zeros(64 << 20, "f2")}),
        npz(tmp_path / "table.npz", vocab_size=np.int64(1 << 40), **table),
        npz(tmp_path / "wide.npz", vocab_size=np.int64(1 << 20), **table),
        npz(tmp_path / "tall.npz", vocab_size=np.int64(1 << 27), **narrow_text_tower()),
        npz(tmp_path / "broad.npz", vocab_size=np.int64(1 << 18), **table),
        legacy_bomb(tmp_path / "legacy.pt"),
    ]
    torch.save(clip_files.state(), tmp_path / "s.pt")
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
