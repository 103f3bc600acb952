"""Encoders and head as one model: built from a checkpoint, described for a feature folder."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import Tensor, nn

from ttvr import plugins
from ttvr.clip import weights as checkpoints
from ttvr.clip.model import CLIP, build
from ttvr.devices import resolve_device
from ttvr.errors import IncompatibleError, RequirementError, UsageError
from ttvr.files import written
from ttvr.heads._base import Head
from ttvr.recipes import Recipe
from ttvr.records import TextFeatures, VideoFeatures

FINGERPRINT_DIGITS = 16
FINGERPRINT_SHOWN = len("sha256:") + 12

log = logging.getLogger(__name__)


class Retriever(nn.Module):
    """A CLIP, a similarity head, and how they came to be. Made by `load`.

    Args:
        clip: both towers.
        head: scores what the towers make.
        recipe: the settings they were trained with, or the defaults.
        source: name or path of the checkpoint.
        note: what the checkpoint says of itself; mostly empty.
        activation: of CLIP's MLPs.
    """

    def __init__(
        self,
        clip: CLIP,
        head: Head,
        *,
        recipe: Recipe,
        source: str,
        activation: str,
        note: str = "",
    ) -> None:
        super().__init__()
        self.clip = clip
        self.head = head
        self.recipe = recipe
        self.source = source
        self.note = note
        self.activation = activation

    @property
    def device(self) -> torch.device:
        """Where the parameters lie."""
        return next(self.clip.parameters()).device

    @property
    def text_length(self) -> int:
        """L, tokens per text: all that CLIP takes, or what a head on words is built for."""
        return self.clip.context_length if self.head.offline else self.recipe.words

    def encode_text(self, ids: Tensor) -> TextFeatures:
        """Ids [B, L] int64 -> TextFeatures; as `CLIP.encode_text`."""
        return self.clip.encode_text(ids.to(self.device))

    def encode_video(self, frames: Tensor, mask: Tensor, *, patches: bool = False) -> VideoFeatures:
        """Encode videos.

        Args:
            frames: [B, T, 3, H, W] normalized pixels.
            mask: [B, T] bool, True = real.
            patches: return the projected patch tokens too.
        """
        return self.clip.encode_video(frames.to(self.device), mask.to(self.device), patches=patches)

    @torch.inference_mode()
    def pad_frame(self) -> Tensor:
        """[D] float32: what an all-zero frame becomes, which unmasked heads see as padding."""
        size = self.clip.image_size
        return self.clip.encode_image(torch.zeros(1, 3, size, size, device=self.device))[0].float()

    def identity(self) -> dict[str, Any]:
        """The `model` entry of a feature folder: what decides which features belong together.

        `base` governs frames, patches and words, `space` the vectors of `video/` and `text/`. Both
        count the activation in, since the same tensors with another activation give other features.
        """
        state = self.clip.state_dict()
        fingerprint = checkpoints.fingerprint(state)
        options = dict(self.recipe.head_options)
        base = _digest([fingerprint, self.activation, []])
        head = [self.head_name, options, checkpoints.fingerprint(self.head.state_dict())]
        return {
            "arch": checkpoints.arch(state),
            "activation": self.activation,
            "fingerprint": fingerprint,
            "source": self.source,
            "note": self.note,
            "head": self.head_name,
            "head_options": options,
            "reduce": [],
            "base": base,
            "space": _digest([base, *head]),
        }

    @property
    def head_name(self) -> str:
        """Name of the head's plug-in."""
        return type(self.head).__module__.rpartition(".")[2]

    def save(self, path: str | Path) -> None:
        """Write weights and recipe as one `ttvr-run/1` file, atomically."""
        content = {
            "format": checkpoints.RUN_FORMAT,
            "clip": {name: tensor.cpu() for name, tensor in self.clip.state_dict().items()},
            "head": {name: tensor.cpu() for name, tensor in self.head.state_dict().items()},
            "reducers": {},
            "recipe": {**vars(self.recipe), "head_options": list(self.recipe.head_options)},
            "activation": self.activation,
        }
        with written(Path(path)) as partial:
            torch.save(content, partial)


def load(
    weights: str | Path = "default",
    head: str | None = None,
    reduce: Sequence[str] = (),
    *,
    activation: str | None = None,
    device: str | torch.device = "cpu",
) -> Retriever:
    """The model of a checkpoint, in evaluation mode.

    Args:
        weights: a path, or a name that `ttvr-weights list` shows.
        head: name of a similarity head; by default the one the checkpoint was trained with.
        reduce: token reducers; this version has none.
        activation: quick_gelu or gelu, where the checkpoint does not tell.
        device: as `resolve_device` takes it.

    Raises:
        RequirementError: the weights or the device are not there.
        IncompatibleError: the file is not a CLIP, or has no weights for this head.
        UsageError: an unknown head or reducer.
    """
    if reduce:
        raise UsageError(f"unknown token reducer {reduce[0]!r}; this version has none")
    checkpoint = checkpoints.read(weights)
    stated = checkpoint.activation
    if activation and stated and activation != stated:
        log.warning("%s says %s; taking %s, as asked", checkpoint.source, stated, activation)
    activation = activation or stated
    if activation is None:
        activation = "quick_gelu"
        log.warning(
            "%s does not say its activation: taking quick_gelu (OpenAI's); --activation gelu "
            "for open_clip's models without -quickgelu in their name",
            checkpoint.source,
        )
    clip = build(checkpoint.clip, activation=activation)
    recipe = _recipe(checkpoint.recipe, head)
    made = _head(recipe, checkpoint, clip)
    retriever = Retriever(
        clip,
        made,
        recipe=recipe,
        source=checkpoint.source,
        activation=activation,
        note=checkpoint.note,
    )
    return retriever.to(resolve_device(device)).eval()


def load_for(
    made_with: Mapping[str, Any],
    *,
    weights: str | Path | None = None,
    head: str | None = None,
    activation: str | None = None,
    device: str | torch.device = "cpu",
) -> Retriever:
    """The model of a feature folder, or the one asked for instead; not checked to fit.

    Args:
        made_with: the `model` entry of the folder's `meta.json`.
        weights: None takes what the folder was made with, head and activation too.
        head: as `load`, errors too.
        activation: likewise.
        device: likewise.
    """
    if weights is None:
        weights, head = made_with["source"], head or made_with["head"]
        activation = activation or made_with["activation"]
        try:
            checkpoints.locate(weights)
        except RequirementError as error:
            raise RequirementError(
                f"the weights that made the features, {weights}, are not there any more; pass "
                f"their new place with -w ({error})"
            ) from error
    return load(weights, head, made_with["reduce"], activation=activation, device=device)


def require_same(
    made_with: Mapping[str, Any], found: Mapping[str, Any], key: str, *, folder: Path, what: str
) -> None:
    """Refuse a model, or features, that do not belong with those of a folder.

    Args:
        made_with: the `model` entry of the folder's `meta.json`.
        found: that of the model or of other features.
        key: "space" for vectors, "base" for frames, patches and words.
        folder: named in the error.
        what: what `found` describes, named in the error.

    Raises:
        IncompatibleError: they differ; both are described.
    """
    if made_with[key] != found[key]:
        raise IncompatibleError(
            f"{folder} was made with {_described(made_with)}, {what} with {_described(found)}: "
            "pass the weights that made the folder with -w, or extract again with these"
        )


def _recipe(stored: dict[str, Any], head: str | None) -> Recipe:
    kinds = {**get_type_hints(Recipe), "head_options": list | tuple, "fps": int | float | None}
    if unknown := sorted(set(stored) - set(kinds)):
        raise IncompatibleError(f"the checkpoint's recipe has unknown settings {unknown}")
    for name, value in stored.items():
        # A truth value is a number to Python alone.
        if not isinstance(value, kinds[name]) or isinstance(value, bool):
            raise IncompatibleError(f"the checkpoint's recipe has a {name} of a wrong kind")
    pairs = [
        (*pair,) if isinstance(pair, list) else pair for pair in stored.get("head_options", ())
    ]
    if not all(isinstance(p, tuple) and len(p) == 2 and isinstance(p[0], str) for p in pairs):
        raise IncompatibleError("the checkpoint's recipe has head_options that are no pairs")
    recipe = Recipe(**{**stored, "head_options": tuple(pairs)})
    if head is None or head == recipe.head:
        return recipe
    return Recipe(**{**vars(recipe), "head": head, "head_options": ()})


def _head(recipe: Recipe, checkpoint: checkpoints.Checkpoint, clip: CLIP) -> Head:
    sizes = {"width": clip.width, "frames": recipe.frames, "words": recipe.words}
    stored = checkpoint.recipe
    trained = bool(stored) and stored.get("head", Recipe.head) == recipe.head
    try:
        plugin = plugins.load("heads", recipe.head)
        head = plugins.construct(plugin, dict(recipe.head_options), **sizes)
        head.load_state_dict(checkpoint.head if trained else {})
    except (UsageError, RuntimeError) as error:
        # A head that the user named is wrong use; one that the file names is not.
        if isinstance(error, UsageError) and not trained:
            raise
        raise IncompatibleError(
            f"{checkpoint.source} has no fitting weights for the head {recipe.head}: {error}"
        ) from error
    return head


def _described(model: Mapping[str, Any]) -> str:
    return (
        f"{model['source']} ({model['arch']}, {model['activation']}, head {model['head']}, "
        f"{model['fingerprint'][:FINGERPRINT_SHOWN]})"
    )


def _digest(parts: list[Any]) -> str:
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:FINGERPRINT_DIGITS]
