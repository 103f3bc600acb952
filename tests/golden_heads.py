"""What the authors' own code computed, as features, parameters and numbers to compare with."""

from __future__ import annotations

import inspect
import json

import numpy as np
import torch

from ttvr.records import TextFeatures, VideoFeatures

EXACT = {"rtol": 1e-8, "atol": 1e-12}
SINGLE = 1e-5  # relative, where a file stores no error of float32


class Golden:
    """A file of `golden/heads`: arrays as tensors, `meta`, and features that need gradients.

    Args:
        shared: the folder of shared material.
        name: of the file, without suffix.
        dtype: of all floats.
    """

    def __init__(self, shared, name, dtype=torch.float64):
        with np.load(shared / "golden" / "heads" / f"{name}.npz", allow_pickle=False) as file:
            stored = {key: file[key] for key in file.files}
        self.meta = json.loads(str(stored.pop("meta_json", "{}")))
        self.exact = {
            key: torch.from_numpy(np.asarray(value))
            for key, value in stored.items()
            if value.dtype.kind in "fi"
        }
        self.arrays = {
            key: value.to(dtype) if value.is_floating_point() else value
            for key, value in self.exact.items()
        }
        self.dtype = dtype
        self.leaves = {
            key: self.arrays[key].clone().requires_grad_()
            for key in ("frames", "words", "sent", "patches", "tokens")
            if key in self.arrays
        }

    def __getitem__(self, key):
        return self.arrays[key]

    def __contains__(self, key):
        return key in self.arrays

    def state(self):
        """The authors' parameters by their names."""
        return {
            key.removeprefix("param/"): value
            for key, value in self.arrays.items()
            if key.startswith("param/")
        }

    def scale(self):
        """exp of the logit scale, whose gradient `gradients_are_close` looks at too."""
        stored = ("param/clip.logit_scale", "param/logit_scale", "logit_scale")
        name = next(name for name in stored if name in self.arrays)
        self.log_scale = self.arrays[name].clone().requires_grad_()
        return self.log_scale.exp()

    def text(self):
        words = self.leaves.get("words")
        sentence = self.leaves["sent"]
        if words is None:
            words = sentence.detach()[:, None]
        mask = self.arrays.get("text_mask")
        mask = torch.ones(words.shape[:2]) if mask is None else mask
        return TextFeatures(sentence, words, mask.bool())

    def video(self, patches=None):
        frames = self.leaves["frames"]
        mask = self.arrays.get("video_mask")
        mask = torch.ones(frames.shape[:2]) if mask is None else mask
        return VideoFeatures(frames, mask.bool(), patches)

    def head(self, plugin, **options):
        """The head with the authors' weights, in evaluation mode and this dtype."""
        if "heads" not in options and self.meta.get("heads") and takes(plugin, "heads"):
            options["heads"] = self.meta["heads"]
        return plugin.from_official(self.state(), **options).to(self.dtype).eval()

    def close(self, found, name):
        """Assert that a tensor is the file's, to 1e-8 relative."""
        torch.testing.assert_close(found, self.exact[name].to(found.dtype), **EXACT)

    def near(self, found, name="sim", error="f32_max_abs_err_sim"):
        """Assert that a float32 tensor is the file's, to five times what the authors' own loses."""
        expected = self.exact[name].double()
        if error in self.exact:
            assert (found.double() - expected).abs().max() <= 5 * self.exact[error]
        else:
            torch.testing.assert_close(found.double(), expected, rtol=SINGLE, atol=SINGLE)

    def gradients_are_close(self, head, features=(), *, skip=()):
        """Assert the gradients of leaves named in `features`, and of every parameter stored."""
        for key in features:
            self.close(self.leaves[key].grad, f"grad_{key}")
        stored = {key.removeprefix("grad/") for key in self.exact if key.startswith("grad/")}
        for name in stored & {"clip.logit_scale", "logit_scale"}:
            self.close(self.log_scale.grad, f"grad/{name}")
        own = dict(head.named_parameters())
        for name in stored - {"clip.logit_scale", "logit_scale", *skip}:
            self.close(own[name].grad, f"grad/{name}")


def takes(plugin, option):
    """Whether a plug-in has an option of that name."""
    return option in inspect.signature(plugin).parameters
