"""What a training is made of: data, options, and the parts that learn."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import nn

from ttvr import distributed
from ttvr.clip import tokenizer
from ttvr.errors import UsageError
from ttvr.evaluate import Pairs
from ttvr.loader import Loader, Read
from ttvr.losses import WordLoss
from ttvr.optim import BertAdam, is_frozen, parameter_groups
from ttvr.recipes import Recipe
from ttvr.records import Split
from ttvr.retriever import SCRATCH, Retriever, build
from ttvr.search import report_unknown
from ttvr.train._batches import FeatureLoader
from ttvr.train._compile import compile_blocks
from ttvr.train._stored import StoredData
from ttvr.train._validate import validate

log = logging.getLogger(__name__)


class Data(NamedTuple):
    """What is learned from, and what the best model is chosen by.

    Attributes:
        name: of the dataset.
        read: of the dataset: frames of a clip.
        train: captions that are learned.
        val: captions that are only ranked; None: there is no validation.
    """

    name: str
    read: Read
    train: Split
    val: Split | None

    def kept(self) -> Data:
        """The same with the training captions in memory: they are read several times."""
        return self._replace(train=self.train._replace(captions=tuple(self.train.captions)))

    def identity(self) -> dict[str, Any]:
        """What a training that goes on has to find again."""
        parts = {part.name: sha256(part) for part in (self.train, self.val) if part}
        return {"dataset": self.name, **parts}

    @property
    def absent(self) -> int:
        """Videos to validate on that are left out: none, since all have to be there."""
        return 0

    def check(self, recipe: Recipe) -> None:
        """Refuse a recipe that clips cannot be learned by.

        Raises:
            UsageError: it asks for frames that training cannot choose from.
        """
        if recipe.fps is not None:
            raise UsageError("training chooses from all frames of a clip: fps has to be none")

    def loader(self, model: Retriever, recipe: Recipe, *, jobs: int) -> Loader:
        """Batches of what is learned.

        Raises:
            UsageError: too few captions for a batch.
        """
        captions, length = self.train.captions, model.text_length
        # It reads all captions, for the process that speaks; who starts from scratch knows none.
        if distributed.leads() and not model.source.startswith(f"{SCRATCH}:"):
            whose = "the model it starts from"
            report_unknown(model, captions, what="training captions", whose=whose)
        tokenizer.count_long(captions, most=length, on_long="truncate", what="training captions")
        return Loader(
            self.train,
            self.read,
            batch_size=recipe.batch_size,
            frames=recipe.train_frames or recipe.frames,
            size=model.clip.image_size,
            words=length,
            is_padded=model.head.needs_words,
            sampler=recipe.train_sampler,
            seed=recipe.seed,
            jobs=jobs,
            rank=distributed.rank(),
            world=distributed.world(),
            is_pinned=model.device.type == "cuda",
        )

    def learns(self, name: str) -> bool:
        """Whether a parameter of this name can be learned: all of them can."""
        del name
        return True

    def validate(self, model: Retriever, *, jobs: int) -> dict[str, Any] | None:
        """How well the model ranks the validation split, as `validate`; None without one."""
        if self.val is None:
            return None
        return validate(model, self.val, self.read, jobs=jobs)


AnyData: TypeAlias = Data | StoredData
"""Clips, or features of them."""


class Options(NamedTuple):
    """How a training runs.

    Attributes:
        eval_every: steps between validations; 0: at the ends of epochs alone.
        save_every: steps between checkpoints, apart from those after validations.
        log_every: steps between lines of the log.
        jobs: clips read at once.
        activation: of the checkpoint's MLPs, where its file does not tell.
        select: which model is kept: "best", by text-to-video R@1 of validations, or "last".
        chosen_on: what results call the split that "best" is chosen by.
        compile: run the visual tower's blocks by `torch.compile`. It is no setting of a recipe: it
            changes rounding alone, as the number of threads does, and a training may go on with it
            or without; bit by bit it is the same one only if that stays.
    """

    eval_every: int = 0
    save_every: int = 200
    log_every: int = 10
    jobs: int = 1
    activation: str | None = None
    select: str = "best"
    chosen_on: str = "val"
    compile: bool = False


class Parts(NamedTuple):
    """The parts of a training, ready for its first step.

    Attributes:
        model: in training mode.
        learner: the model, or what averages its gradients over several processes; of batches in
            parts, the model.
        loader: of the training split.
        optimizer: with the groups of `parameter_groups`.
        scaler: of fp16's gradients; it does nothing in other precisions.
        given: names of tensors that the start has and training cannot change.
    """

    model: Retriever
    learner: nn.Module
    loader: Loader | FeatureLoader
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    given: frozenset[str]


def check_rows(recipe: Recipe, *, processes: int) -> None:
    """Refuse more processes, or parts of a process's rows, than a batch has rows for.

    Raises:
        UsageError: some of them would have nothing to do.
    """
    if recipe.batch_size < processes:
        raise UsageError(
            f"a batch of {recipe.batch_size} has nothing for some of {processes} processes: pass a "
            "larger --batch-size, or start fewer"
        )
    rows = -(-recipe.batch_size // processes)  # of the process that has the most
    if recipe.accumulate > rows:
        of = f" in each of {processes} processes" if processes > 1 else ""
        raise UsageError(
            f"accumulate is {recipe.accumulate}, more parts than a batch of {recipe.batch_size} "
            f"has rows{of}: pass --accumulate {rows} or less, or a larger --batch-size"
        )


def _warn_of_one_pair(model: Retriever, batch_size: int) -> None:
    """Say where no loss sees two pairs: the contrast of one is 0, and so is its gradient."""
    together = 1 if model.head.gather else distributed.world()
    if distributed.leads() and batch_size <= together:
        where = "a batch" if together == 1 else "the batch of each process"
        log.warning(
            "%s is one pair, which a contrastive loss tells from nothing: it is 0 and teaches "
            "nothing; pass a larger --batch-size",
            where,
        )


def check_freeze(model: Retriever, freeze: int | None) -> None:
    """Refuse to freeze blocks that there are not.

    Raises:
        UsageError: the towers have fewer; says how many.
    """
    towers = {"visual": model.clip.visual, "text": model.clip}
    blocks = {
        name: len(tower.transformer.resblocks)
        for name, tower in towers.items()
        if hasattr(tower, "transformer")  # weights may have one tower alone
    }
    if freeze is not None and freeze > max(blocks.values()):
        have = " and ".join(f"{count} in the {name} tower" for name, count in blocks.items())
        raise UsageError(
            f"freeze is {freeze}, more blocks than {model.source} has: {have}; pass fewer"
        )


def set_up(recipe: Recipe, data: AnyData, options: Options, device: str | torch.device) -> Parts:
    """Build everything from the recipe's seed.

    Raises:
        UsageError: of the data's `check` and `loader`, nothing would be learned, a batch has
            fewer rows than there are processes or parts, or more blocks are frozen than there are.
        TtvrError: of `retriever.build`, or of the data's `loader`.
    """
    data.check(recipe)
    if options.select == "best" and data.val is None:
        raise UsageError("nothing to choose the best model by: pass features to validate on, too")
    check_rows(recipe, processes=distributed.world())
    torch.manual_seed(recipe.seed)
    model = build(recipe, activation=options.activation, device=device)
    check_freeze(model, recipe.freeze)
    _warn_of_one_pair(model, recipe.batch_size)
    if options.compile:
        compile_blocks(model)
    loader = data.loader(model, recipe, jobs=options.jobs)
    if recipe.word_loss:
        labels = _tokens(data.train.captions, model.text_length)
        model.auxiliary = WordLoss(labels, model.head.vector_width).to(model.device)
    given = frozenset(name for name, _ in model.named_parameters() if not data.learns(name))
    learned = [
        (name, tensor)
        for name, tensor in model.named_parameters()
        if name not in given and not is_frozen(name, recipe.freeze)
    ]
    model.requires_grad_(False)
    groups = parameter_groups(
        learned,
        lr=recipe.lr,
        clip_lr=recipe.clip_lr,
        scale_lr_factor=recipe.scale_lr_factor,
        weight_decay=recipe.weight_decay,
        decay=recipe.decay,
    )
    _thaw(model, groups)
    optimizer = _optimizer(recipe, groups)
    scaler = torch.amp.GradScaler(model.device.type, enabled=recipe.precision == "fp16")
    return Parts(model, _learner(model, recipe), loader, optimizer, scaler, given)


def _learner(model: Retriever, recipe: Recipe) -> nn.Module:
    """What a batch goes through: `distributed.averaging`, where it does so in one pass."""
    if recipe.accumulate == 1:
        return distributed.averaging(model)
    distributed.start_alike(model.parameters())
    return model


def _optimizer(recipe: Recipe, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    betas, eps = recipe.betas, recipe.eps
    if recipe.optimizer == "bert_adam":
        return BertAdam(groups, betas=betas, eps=eps, max_norm=recipe.max_grad_norm)
    # Fused: one pass over the token table instead of several, the largest part of a small model.
    return torch.optim.AdamW(groups, betas=betas, eps=eps, fused=True)


def _thaw(model: Retriever, groups: Sequence[Mapping[str, Any]]) -> None:
    """Take gradients of what learns at a rate above 0 alone: they cost time, and have a norm."""
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


def sha256(split: Split) -> str:
    """64 hex digits over the captions and the ids of their clips, as `ttvr-eval` reports them."""
    return Pairs.of(split).sha256


def _tokens(captions: Sequence[str], length: int) -> list[int]:
    """Ids that occur in captions of at most so many tokens, without start and end, ascending."""
    return sorted({token for text in captions for token in tokenizer.encode(text)[: length - 2]})
