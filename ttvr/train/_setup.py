"""What a training is made of: data, options, and the parts that learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from ttvr.clip import tokenizer
from ttvr.errors import UsageError
from ttvr.loader import Loader, Read
from ttvr.losses import WordLoss
from ttvr.optim import parameter_groups
from ttvr.recipes import Recipe
from ttvr.records import Split
from ttvr.retriever import Retriever, build


class Data(NamedTuple):
    """What is learned from, and what the best model is chosen by.

    Attributes:
        name: of the dataset.
        read: of the dataset: frames of a clip.
        train: captions that are learned.
        val: captions that are only ranked.
    """

    name: str
    read: Read
    train: Split
    val: Split

    def kept(self) -> Data:
        """The same with the training captions in memory: they are read several times."""
        return self._replace(train=self.train._replace(captions=tuple(self.train.captions)))


class Options(NamedTuple):
    """How a training runs.

    Attributes:
        eval_every: steps between validations; 0: at the ends of epochs alone.
        save_every: steps between checkpoints, apart from those after validations.
        log_every: steps between lines of the log.
        jobs: clips read at once.
        activation: of the checkpoint's MLPs, where its file does not tell.
    """

    eval_every: int = 0
    save_every: int = 200
    log_every: int = 10
    jobs: int = 1
    activation: str | None = None


class Parts(NamedTuple):
    """The parts of a training, ready for its first step.

    Attributes:
        model: in training mode.
        loader: of the training split.
        optimizer: with the groups of `parameter_groups`.
        scaler: of fp16's gradients; it does nothing in other precisions.
    """

    model: Retriever
    loader: Loader
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler


def set_up(recipe: Recipe, data: Data, options: Options, device: str | torch.device) -> Parts:
    """Build everything from the recipe's seed.

    Raises:
        UsageError: the recipe asks for frames that training cannot choose from, nothing would be
            learned, or `Loader`'s.
        TtvrError: of `retriever.build`.
    """
    if recipe.fps is not None:
        raise UsageError("training chooses from all frames of a clip: fps has to be none")
    torch.manual_seed(recipe.seed)
    model = build(recipe, activation=options.activation, device=device)
    captions, length = data.train.captions, model.text_length
    if recipe.word_loss:
        labels = _tokens(captions, length)
        model.auxiliary = WordLoss(labels, model.head.vector_width).to(model.device)
    tokenizer.count_long(captions, most=length, on_long="truncate", what="training captions")
    loader = Loader(
        data.train,
        data.read,
        batch_size=recipe.batch_size,
        frames=recipe.train_frames or recipe.frames,
        size=model.clip.image_size,
        words=length,
        is_padded=model.head.needs_words,
        seed=recipe.seed,
        jobs=options.jobs,
    )
    groups = parameter_groups(
        model.named_parameters(),
        lr=recipe.lr,
        clip_lr=recipe.clip_lr,
        scale_lr_factor=recipe.scale_lr_factor,
        weight_decay=recipe.weight_decay,
    )
    _freeze(model, groups)
    # Fused: one pass over the token table instead of several, the largest part of a small model.
    optimizer = torch.optim.AdamW(groups, betas=recipe.betas, fused=True)
    scaler = torch.amp.GradScaler(model.device.type, enabled=recipe.precision == "fp16")
    return Parts(model, loader, optimizer, scaler)


def _freeze(model: Retriever, groups: Sequence[Mapping[str, Any]]) -> None:
    """Take no gradient of what learns at a rate of 0: it costs time, and counts in the norm."""
    for group in groups:
        for tensor in group["params"]:
            tensor.requires_grad_(group["peak_lr"] > 0)
    # What an auxiliary loss learns is thrown away.
    kept = (*model.clip.parameters(), *model.head.parameters())
    if not any(tensor.requires_grad for tensor in kept):
        raise UsageError(
            f"nothing would be learned: clip_lr is 0, and lr finds no parameters in the head "
            f"{model.head_name}, or is 0 too; pass --set clip_lr=1e-7, say"
        )


def _tokens(captions: Sequence[str], length: int) -> list[int]:
    """Ids that occur in captions of at most so many tokens, without start and end, ascending."""
    return sorted({token for text in captions for token in tokenizer.encode(text)[: length - 2]})
