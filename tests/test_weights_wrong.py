"""Files that are read well but hold no complete, finite CLIP: what the error lists."""

from __future__ import annotations

import io
import zipfile
from collections import OrderedDict

import clip_files
import numpy as np
import pytest
import torch
from test_weights import as_npz
from test_weights_hostile import refuse

from ttvr.clip import weights

STATE = clip_files.state()


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
    "a setting that is a tensor": (
        {"format": "ttvr-run/1", "clip": STATE, "recipe": {"frames": torch.zeros(3)}},
        "the setting 'frames' of its recipe",
    ),
    "a setting that is a dictionary": (
        {"format": "ttvr-run/1", "clip": STATE, "recipe": {"head_options": [("a", {})]}},
        "the setting 'head_options' of its recipe",
    ),
    "a setting that is a number": (
        {"format": "ttvr-run/1", "clip": STATE, "recipe": {1: 2, "zz": 3}},
        "the setting '1' of its recipe",
    ),
    "an activation that is a tensor": (
        {"format": "ttvr-run/1", "clip": STATE, "activation": torch.zeros(2)},
        "is none of quick_gelu, gelu",
    ),
    "odd activation": (
        {"format": "ttvr-run/1", "clip": STATE, "activation": "relu"},
        "activation 'relu' is none of quick_gelu, gelu",
    ),
}


@pytest.mark.parametrize(("content", "match"), WRONG.values(), ids=WRONG)
def test_wrong_state(content, match, tmp_path):
    torch.save(content, tmp_path / "wrong.pt")
    refuse(tmp_path / "wrong.pt", match)


LABELS = {
    "tensor": (torch.zeros(2), None),
    "tensor for ttvr": ({"ttvr": torch.zeros(2)}, None),
    "note": ({"ttvr": {"note": torch.zeros(2)}}, "its label is damaged"),
    "activation": ({"ttvr": {"activation": ["a"]}}, "is none of quick_gelu, gelu"),
}


@pytest.mark.parametrize(("metadata", "match"), LABELS.values(), ids=LABELS)
def test_odd_labels_of_a_state_dict(metadata, match, tmp_path):
    state = OrderedDict(STATE)
    state._metadata = metadata
    torch.save(state, tmp_path / "m.pt")
    if match is None:
        assert weights.read(tmp_path / "m.pt").note == ""
    else:
        refuse(tmp_path / "m.pt", match)


def test_a_note_is_one_line_that_is_not_long(tmp_path):
    path = weights.save(STATE, tmp_path / "n.npz", note="two\nlines" * 1000)
    note = weights.read(path).note
    assert note.startswith("'two\\nlines")
    assert len(note) < 200


def test_a_recipe_that_is_nested_deeply(tmp_path):
    deep = []
    for _ in range(400):
        deep = [deep]
    torch.save({"format": "ttvr-run/1", "clip": STATE, "recipe": {"a": deep}}, tmp_path / "d.pt")
    assert weights.read(tmp_path / "d.pt").recipe == {"a": deep}


def test_finite_weights_whose_sum_is_infinite_load(tmp_path):
    state = {**STATE, "visual.proj": torch.full((64, 32), 3e38)}
    torch.save(state, tmp_path / "big.pt")
    assert weights.load(tmp_path / "big.pt")["visual.proj"].max() > 1e38


def test_overlapping_tensors_are_not_multiplied(tmp_path):
    table = torch.ones(3000, 1000)
    torch.save({f"t{i}": table for i in range(1000)}, tmp_path / "tied.pt")
    refuse(tmp_path / "tied.pt", "12000000000 bytes of tensors overlap")
    head = {f"t{i}": table.half() if i == 0 else table for i in range(1000)}
    torch.save({"format": "ttvr-run/1", "clip": STATE, "head": head}, tmp_path / "run.pt")
    refuse(tmp_path / "run.pt", "bytes of tensors overlap")


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
        (
            {"logit_scale": np.longdouble(2)},
            "logit_scale is of dtype float(128|64), not float16 or",
        ),
        ({"logit_scale": np.array(2, ">f4")}, "logit_scale is of dtype >f4, not float16 or"),
        ({"logit_scale": np.float64(2)}, "logit_scale is of dtype float64, not float16 or"),
        ({"token_embedding.rows": np.zeros((27, 64), ">f2")}, "rows is of dtype >f2, not float16"),
        ({"token_embedding.rows": np.zeros((27, 64), "f8")}, "rows is of dtype float64, not flo"),
        ({"logit_scale": np.zeros(2, [("f" * 5000, "f4")])}, "logit_scale is of dtype"),
        ({"vocab_size": np.int64((1 << 18) + 1)}, "refused: a token table of 262145"),
        ({"activation": np.str_("relu")}, "activation 'relu'"),
    ],
)
def test_wrong_npz(change, match, tmp_path):
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
