"""What ttvr writes: converted checkpoints and random ones in OpenAI's format."""

from __future__ import annotations

import builtins

import clip_files
import pytest
import torch

from ttvr.clip import weights
from ttvr.errors import RequirementError, TtvrError, UsageError

STATE = clip_files.state()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz"])
def test_save_keeps_activation_and_note(suffix, tmp_path):
    path = tmp_path / f"c{suffix}"
    weights.save(STATE, path, activation="gelu", note=weights.RANDOM)
    checkpoint = weights.read(path)
    assert checkpoint.activation == "gelu"
    assert (checkpoint.source, checkpoint.note) == (str(path), "random (meaningless)")
    assert list(tmp_path.glob(".*")) == []


def test_a_saved_state_dict_is_plain_for_others(tmp_path):
    weights.save(STATE, tmp_path / "c.pt", activation="gelu")
    module = clip_files.Clip()
    missing = module.load_state_dict(torch.load(tmp_path / "c.pt", weights_only=True), strict=False)
    assert missing.unexpected_keys == []
    assert set(missing.missing_keys) == {"input_resolution", "context_length", "vocab_size"}


def test_save_refuses_what_float16_cannot_hold(tmp_path):
    state = {**STATE, "logit_scale": torch.tensor(1e5)}
    with pytest.raises(TtvrError, match="logit_scale has values beyond"):
        weights.save(state, tmp_path / "c.npz")
    with pytest.raises(UsageError, match="suffix"):
        weights.save(STATE, tmp_path / "c.onnx")
    assert not [*tmp_path.glob("*.npz"), *tmp_path.glob(".*")]


def test_random_is_an_archive_of_openai_kind(tmp_path, recwarn, caplog):
    first, again, other = (tmp_path / name for name in ("a.pt", "b.pt", "c.pt"))
    weights.random(first, seed=0)
    weights.random(again, seed=0)
    weights.random(other, seed=1)
    assert not [w for w in recwarn if "jit" in str(w.message)]
    checkpoint = weights.read(first)
    assert "meaningless" in caplog.text
    assert (checkpoint.source, checkpoint.note) == (str(first), "random (meaningless)")
    assert (checkpoint.format, checkpoint.activation) == ("TorchScript archive", "quick_gelu")
    prints = [weights.fingerprint(weights.load(path)) for path in (first, again, other)]
    assert prints[0] == prints[1] != prints[2]
    assert first.read_bytes() == again.read_bytes()
    with pytest.warns(DeprecationWarning, match="torch.jit.load"):
        theirs = torch.jit.load(first).state_dict()
    assert {"input_resolution", "context_length", "vocab_size"} == set(theirs) - set(
        checkpoint.clip
    )
    for name, tensor in checkpoint.clip.items():
        assert theirs[name].dtype == torch.float16
        assert torch.equal(theirs[name].float(), tensor)
    assert weights.arch(checkpoint.clip) == "ViT-w128-p32-l2"
    assert checkpoint.clip["token_embedding.weight"].shape == (49408, 128)
    spread = checkpoint.clip["token_embedding.weight"].std()
    assert abs(float(spread) - 0.02) < 1e-3


def test_safetensors_package_is_asked_for(tmp_path, monkeypatch):
    path = weights.save(STATE, tmp_path / "a.safetensors")
    real = builtins.__import__

    def without(name, *rest):
        if name.startswith("safetensors"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RequirementError, match=r"pip install 'ttvr\[safetensors\]'"):
        weights.load(path)
    with pytest.raises(RequirementError, match=r"pip install 'ttvr\[safetensors\]'"):
        weights.save(STATE, tmp_path / "x.safetensors")
