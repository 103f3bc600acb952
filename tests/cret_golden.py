"""The numbers of `golden/cret`, and CRET's parts with its weights."""

from __future__ import annotations

import numpy as np
import torch

from ttvr.heads._cret_ccm import CCM, DecoderLayer
from ttvr.heads.cret import CRET
from ttvr.records import TextFeatures, VideoFeatures

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-4}  # of an array's largest value


class CretGolden:
    """The arrays as tensors of one dtype; `close` compares with what is stored.

    Args:
        shared: the folder of shared material.
        dtype: of all floats.
    """

    def __init__(self, shared, dtype=torch.float64):
        with np.load(shared / "golden" / "cret" / "cret.npz", allow_pickle=False) as file:
            self.exact = {name: torch.from_numpy(file[name]) for name in file.files}
        self.dtype = dtype

    def __getitem__(self, name):
        x = self.exact[name]
        return x.to(self.dtype) if x.is_floating_point() else x

    def number(self, name):
        return self.exact[name].item()

    def close(self, found, name):
        expected = self.exact[name]
        assert found.shape == expected.shape, name
        assert found.dtype == self.dtype
        worst = (found.double() - expected).abs().max()
        assert worst <= TOLERANCE[self.dtype] * expected.abs().max(), (name, worst)

    def attention(self):
        """CCM with the printed attention and its output map."""
        Q, d_o = self["w_Q"], self["w_W_O"].shape[1]
        ccm = CCM(Q.shape[1], len(Q), len(self["w_W_Q"]), mode="attn", out_width=d_o).to(self.dtype)
        layer, weights = ccm.layers[0], {"centers": Q, "out.weight": self["w_W_O"].T}
        for part, letter in ((layer.query, "Q"), (layer.key, "K"), (layer.value, "V")):
            part.weight.data = torch.cat(list(self[f"w_W_{letter}"]), dim=1).T
        assert len(ccm.state_dict()) == 5
        ccm.load_state_dict({**ccm.state_dict(), **weights})
        return ccm

    def block(self):
        """CCM with a decoder layer, which has a feed-forward layer of another width than ours."""
        Q, names = self["w_Q"], {"own": "sa", "cross": "ca"}
        heads, inner = self.number("heads_block"), self["blk0_ff_W1"].shape[1]
        ccm = CCM(Q.shape[1], len(Q), heads)
        layer = DecoderLayer(Q.shape[1], heads, inner).to(self.dtype)
        state = {}
        for ours, theirs in names.items():
            for part, letter in (("query", "q"), ("key", "k"), ("value", "v")):
                state[f"{ours}.{part}.weight"] = self[f"blk0_{theirs}_W{letter}"].T
                state[f"{ours}.{part}.bias"] = self[f"blk0_{theirs}_b{letter}"]
            state[f"{ours}_out.weight"] = self[f"blk0_{theirs}_Wo"].T
            state[f"{ours}_out.bias"] = self[f"blk0_{theirs}_bo"]
        for number, part in ((1, "widen"), (2, "narrow")):
            state[f"{part}.weight"] = self[f"blk0_ff_W{number}"].T
            state[f"{part}.bias"] = self[f"blk0_ff_b{number}"]
        for number, part in ((1, "own"), (2, "cross"), (3, "inner")):
            state[f"norm_{part}.weight"] = self[f"blk0_ln{number}_g"]
            state[f"norm_{part}.bias"] = self[f"blk0_ln{number}_b"]
        layer.load_state_dict(state)
        ccm.layers[0] = layer
        ccm.centers.data = Q
        return ccm

    def tokens(self):
        """E^v [N, P, d_e] and its mask, as the file's projection makes it; E^t and its mask."""
        pooled = self["X"].amax(dim=1)
        videos = pooled @ self["w_Wp"] + self["w_bp"]
        everything = torch.ones(videos.shape[:2], dtype=torch.bool)
        return pooled, (videos, everything), (self["E_t"], self["mask_t"].bool())

    def head(self, **options):
        """The whole head with the file's weights; its patches have the width of its frames."""
        sizes = {"centers": 5, "heads": 4, "mode": "attn", "out_width": 8, "temporal_layers": 0}
        numbers = {name: self.number(name) for name in ("tau", "tau_local", "alpha", "beta")}
        d = self["V"].shape[-1]
        choices = {**sizes, **numbers, "covariance": "diag", **options}
        head = CRET(width=d, **choices)
        head = head.to(self.dtype)
        head.ccm = self.attention()
        narrow = self["w_Wp"]
        weight = torch.cat([narrow, narrow.new_zeros(d - len(narrow), d)]).T
        head.patches_to_words.load_state_dict({"weight": weight, "bias": self["w_bp"]})
        return head

    def features(self):
        """Texts with a start-of-text in front, videos with patches that zeros make wider."""
        first = torch.full_like(self["E_t"][:, :1], 7.0)
        words = torch.cat([first, self["E_t"]], dim=1)
        keep = self["mask_t"].bool()
        text = TextFeatures(self["T"], words, torch.cat([keep[:, :1] | True, keep], dim=1))
        X = self["X"]
        X = torch.cat([X, X.new_zeros(*X.shape[:-1], self["V"].shape[-1] - X.shape[-1])], dim=-1)
        mask = torch.ones(X.shape[:2], dtype=torch.bool)
        return text, VideoFeatures(self["V"], mask, X)
