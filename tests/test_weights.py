"""Every format gives the same float32 state under OpenAI's names, and the same fingerprint."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import clip_files
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ttvr.clip import weights

STATE = clip_files.state()


@pytest.fixture(autouse=True)
def no_home(tmp_path, monkeypatch):
    """No checkpoint of this machine takes part."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TTVR_WEIGHTS", raising=False)
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)


def halves(tensors):
    return {name: tensor.half() for name, tensor in tensors.items()}


def prefixed(prefix, tensors):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def scalars(tensors):
    return {**tensors, "input_resolution": torch.tensor(16), "vocab_size": torch.tensor(50)}


def custom_text(tensors):
    """open_clip's layout for custom text towers."""
    own = {name: t for name, t in tensors.items() if name.startswith("visual.")}
    rest = {name: t for name, t in tensors.items() if name not in own and name != "logit_scale"}
    mask = {"text.attn_mask": torch.zeros(9, 9)}
    return {**own, **prefixed("text.", rest), **mask, "logit_scale": tensors["logit_scale"]}


def as_npz(path, **changes):
    """The embedded default's format, written by hand."""
    table = STATE["token_embedding.weight"].numpy().astype(np.float16)
    rows = np.array([i for i in range(len(table)) if table[i].any()], dtype=np.int64)
    arrays = {n: t.numpy().astype(np.float16) for n, t in STATE.items()}
    del arrays["token_embedding.weight"]
    arrays |= {"format": "ttvr-npz/1", "token_rows": rows, "token_embedding.rows": table[rows]}
    arrays |= {"vocab_size": np.int64(len(table)), **changes}
    np.savez_compressed(path, **{name: a for name, a in arrays.items() if a is not None})
    return path


def saved(name, content):
    return lambda folder: (torch.save(content, folder / name), folder / name)[1]


def tensors_file(name, content):
    def write(folder):
        save_file({n: t.contiguous() for n, t in content.items()}, folder / name)
        return folder / name

    return write


def legacy(folder):
    torch.save(STATE, folder / "old.pt", _use_new_zipfile_serialization=False)
    return folder / "old.pt"


def converted(name, **options):
    return lambda folder: weights.save(STATE, folder / name, **options)


RUN = {
    "format": "ttvr-run/1",
    "clip": STATE,
    "head": {"w": torch.ones(2, 3).half(), "n": torch.tensor(3)},
}
RUN |= {"reducers": {}, "recipe": {"lr": 1e-4, "frames": 12}, "activation": "gelu"}

WRITERS = {
    "traced fp16": lambda f: clip_files.archive(f / "ViT.pt"),
    "traced fp32": lambda f: clip_files.archive(f / "ViT.pt", dtype=torch.float32),
    "scripted fp16": lambda f: clip_files.archive(f / "s.pt", how="script"),
    "traced fp64": lambda f: clip_files.archive(f / "d.pt", dtype=torch.float64),
    "state dict": saved("a.pt", OrderedDict(STATE)),
    "state dict fp16": saved("a.bin", halves(STATE)),
    "with scalars": saved("a.pt", scalars(STATE)),
    "parameters": saved("a.pt", {n: torch.nn.Parameter(t) for n, t in STATE.items()}),
    "legacy": legacy,
    "module. prefix": saved("a.pt", prefixed("module.", STATE)),
    "clip. prefix": saved("a.pt", prefixed("module.clip.", scalars(STATE))),
    "state_dict wrapper": saved("a.pt", {"epoch": 3, "state_dict": prefixed("module.", STATE)}),
    "model wrapper": saved("a.pt", {"model": {"state_dict": STATE}, "optimizer": {}}),
    "safetensors": tensors_file("a.safetensors", STATE),
    "safetensors fp16": tensors_file("renamed.pt", halves(STATE)),
    "Hugging Face .bin": saved("pytorch_model.bin", clip_files.hugging_face(STATE)),
    "Hugging Face": tensors_file("model.safetensors", clip_files.hugging_face(STATE)),
    "Hugging Face fp16": tensors_file("m.safetensors", halves(clip_files.hugging_face(STATE))),
    "open_clip custom text": saved("open_clip.pt", custom_text(STATE)),
    "npz": lambda f: as_npz(f / "tiny.npz"),
    "run": saved("best.pt", RUN),
    "converted .pt": converted("c.pt"),
    "converted .bin fp16": converted("c.bin", dtype="float16"),
    "converted .safetensors": converted("c.safetensors", dtype="float16"),
    "converted .npz": converted("c.npz"),
    "converted .npz fp32": converted("c.npz", dtype="float32"),
}


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_every_format_gives_the_same_state(writer, tmp_path):
    path = writer(tmp_path)
    loaded = weights.load(path)
    assert set(loaded) == set(STATE)
    for name, tensor in loaded.items():
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()
        assert not tensor.requires_grad
        assert torch.equal(tensor, STATE[name]), name
    assert weights.fingerprint(loaded) == weights.fingerprint(STATE)
    assert list(loaded) == list(weights.load(converted("other.pt")(tmp_path)))


def test_bfloat16_becomes_its_float32_values(tmp_path):
    path = clip_files.archive(tmp_path / "b.pt", dtype=torch.bfloat16)
    for name, tensor in weights.load(path).items():
        assert torch.equal(tensor, STATE[name].bfloat16().float())


@pytest.mark.parametrize("writer", ["traced fp32", "safetensors", "state dict"])
def test_the_state_does_not_depend_on_the_file_once_loaded(writer, tmp_path):
    path = WRITERS[writer](tmp_path)
    loaded = weights.load(path)
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)
    assert weights.fingerprint(loaded) == weights.fingerprint(STATE)


def test_archive_with_tied_shared_and_strided_tensors(tmp_path):
    module = clip_files.model()
    both = torch.cat([module.visual.proj, module.text_projection])
    module.visual.proj.set_(both[: clip_files.WIDTH])
    module.text_projection.set_(both[clip_files.WIDTH :])
    columns = module.visual.conv1.weight.clone(memory_format=torch.channels_last)
    module.visual.conv1.weight.set_(columns)
    tied = module.visual.transformer.resblocks
    tied[1].ln_1.weight = tied[0].ln_1.weight
    path = clip_files.archive(tmp_path / "t.pt", how="script", dtype=torch.float32, module=module)
    loaded = weights.load(path)
    for name, tensor in module.state_dict().items():
        if name in loaded:
            assert torch.equal(loaded[name], tensor), name
    assert loaded["visual.conv1.weight"].is_contiguous()


@pytest.mark.parametrize("tower", ["visual", "text"])
def test_one_tower_is_complete(tower, tmp_path):
    part = {n: t for n, t in STATE.items() if n.startswith("visual.") == (tower == "visual")}
    part.pop("logit_scale", None)
    torch.save(part, tmp_path / "part.pt")
    assert set(weights.load(tmp_path / "part.pt")) == set(part)
    theirs = clip_files.hugging_face(STATE)
    names = ("vision_model.", "visual_") if tower == "visual" else ("text_model.", "text_")
    theirs = {name: tensor for name, tensor in theirs.items() if name.startswith(names)}
    torch.save(theirs, tmp_path / "hf.bin")
    loaded = weights.load(tmp_path / "hf.bin")
    assert weights.fingerprint(loaded) == weights.fingerprint(part)


def test_golden_states_load(shared, tmp_path):
    files = sorted((shared / "golden" / "centerclip").glob("visual_*.npz"))
    assert files
    for file in files:
        with np.load(file) as golden:
            names = [name for name in golden if name.startswith("sd/")]
            state = {name[3:]: torch.from_numpy(golden[name]) for name in names}
        torch.save(state, tmp_path / "golden.pt")
        loaded = weights.load(tmp_path / "golden.pt")
        assert weights.fingerprint(loaded) == weights.fingerprint(state)


def test_fingerprint_is_what_its_definition_says():
    state = {"b": torch.tensor([[1.0, 2.0]]), "a": torch.tensor(3.0), "e": torch.empty(0, 2)}
    digest = hashlib.sha256()
    for name in sorted(state):
        array = state[name].numpy()
        digest.update(f"{name}\0float32\0{list(array.shape)}\0".encode() + array.tobytes())
    assert weights.fingerprint(state) == f"sha256:{digest.hexdigest()}"


def test_fingerprint_sees_every_part():
    base = {"a": torch.zeros(2, 3), "b": torch.ones(2)}
    others = [
        {"a": torch.zeros(3, 2), "b": torch.ones(2)},
        {"a": torch.zeros(2, 3), "c": torch.ones(2)},
        {"a": torch.zeros(2, 3), "b": torch.ones(2).double()},
        {"a": -torch.zeros(2, 3), "b": torch.ones(2)},
        {"a": torch.zeros(2, 3)},
    ]
    prints = {weights.fingerprint(state) for state in [base, *others]}
    assert len(prints) == 6
    again = {"b": torch.ones(2), "a": torch.zeros(3, 2).T}
    assert weights.fingerprint(again) == weights.fingerprint(base)


@pytest.mark.parametrize(
    ("writer", "activation"),
    [
        ("traced fp16", "quick_gelu"),
        ("npz", "quick_gelu"),
        ("run", "gelu"),
        ("state dict", None),
        ("Hugging Face", None),
    ],
)
def test_activation(writer, activation, tmp_path):
    assert weights.read(WRITERS[writer](tmp_path)).activation == activation


def test_named_checkpoint_knows_its_activation(tmp_path, monkeypatch):
    torch.save(STATE, tmp_path / "ViT-B-16.pt")
    monkeypatch.setenv("TTVR_WEIGHTS", str(tmp_path))
    checkpoint = weights.read("ViT-B/16")
    assert (checkpoint.source, checkpoint.activation) == ("ViT-B/16", "quick_gelu")
    checkpoint = weights.read(tmp_path / "ViT-B-16.pt")
    assert (checkpoint.source, checkpoint.activation) == (str(tmp_path / "ViT-B-16.pt"), None)


def test_run_holds_head_and_recipe(tmp_path):
    checkpoint = weights.read(saved("best.pt", RUN)(tmp_path))
    assert checkpoint.recipe == {"lr": 1e-4, "frames": 12}
    assert checkpoint.head["w"].dtype == torch.float32
    assert checkpoint.head["n"].dtype == torch.int64
    assert checkpoint.reducers == {}
    assert checkpoint.source == str(tmp_path / "best.pt")


def known(width, patch, layers, positions):
    """Shapes without memory: enough for a name."""
    state = {
        "visual.conv1.weight": torch.empty(1).expand(width, 3, patch, patch),
        "visual.positional_embedding": torch.empty(1).expand(positions, width),
    }
    blocks = {f"visual.transformer.resblocks.{i}.ln_1.bias": torch.empty(1) for i in range(layers)}
    return state | blocks


@pytest.mark.parametrize(
    ("sizes", "name"),
    [
        ((768, 32, 12, 50), "ViT-B/32"),
        ((768, 16, 12, 197), "ViT-B/16"),
        ((1024, 14, 24, 257), "ViT-L/14"),
        ((1024, 14, 24, 577), "ViT-L/14@336px"),
        ((768, 32, 11, 50), "ViT-w768-p32-l11"),
        ((128, 32, 2, 50), "ViT-w128-p32-l2"),
    ],
)
def test_arch(sizes, name):
    assert weights.arch(known(*sizes)) == name


def test_arch_of_a_text_tower():
    text = {name: tensor for name, tensor in STATE.items() if not name.startswith("visual.")}
    assert weights.arch(text) == "text-w64-l2"
