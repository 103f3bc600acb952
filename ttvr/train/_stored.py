"""Learning from feature folders: CLIP stays as it is, the head alone is trained."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ttvr import distributed, metrics
from ttvr.errors import IncompatibleError, TtvrError, UsageError
from ttvr.evaluate import Pairs, absent_videos, refusal, stored_pairs
from ttvr.optim import SCALE
from ttvr.recipes import Recipe
from ttvr.records import Clip, Split
from ttvr.retriever import Retriever, require_same, stored_texts, stored_videos
from ttvr.score import similarity_matrix
from ttvr.store import Features
from ttvr.train._batches import FeatureLoader

SETTINGS = ("frames", "sampler", "fps", "reduce")
"""Settings of a recipe that features have behind them."""

log = logging.getLogger(__name__)


class Stored(NamedTuple):
    """Captions and videos with their features.

    Attributes:
        split: all videos of the folder, and captions with rows of them as owners.
        videos: a video folder.
        texts: a text folder of the same base.
        rows: of each caption, in the text folder.
        absent: videos that captions describe and that have no features, with the reason: their
            captions are left out.
    """

    split: Split
    videos: Features
    texts: Features
    rows: Sequence[int]
    absent: dict[str, str]

    @classmethod
    def open(cls, videos: str | Path, texts: str | Path, *, missing: str = "error") -> Stored:
        """Two folders, matched by what the text folder's `gt.tsv` says.

        Args:
            videos: folder of video features.
            texts: folder of text features.
            missing: "error", or "skip": leave captions out whose video has no features.

        Raises:
            IncompatibleError: they are not of these kinds, or not of one base.
            TtvrError: a folder cannot be used, pairs are not told, or videos are missing.
        """
        found, said = Features.open(videos), Features.open(texts)
        if found.kind != "video":
            raise IncompatibleError(f"{videos} holds texts, --features are those of videos")
        pairs = stored_pairs(said)
        own, other = found.meta["model"], said.meta["model"]
        require_same(own, other, "base", folder=found.path, what=str(said.path))
        place = {video: row for row, video in enumerate(found.ids)}
        absent = absent_videos(found, pairs, place)
        if absent and missing == "error":
            raise TtvrError(refusal(found, pairs, absent, may_miss=False))
        kept = [at for at, video in enumerate(pairs.videos) if video in place]
        split = Split(
            str(said.path),
            tuple(Clip(id, Path(id)) for id in found.ids),
            tuple(pairs.captions[at] for at in kept),
            tuple(place[pairs.videos[at]] for at in kept),
        )
        return cls(split, found, said, [said.gt[at][0] for at in kept], absent)

    def settings(self) -> dict[str, Any]:
        """What `SETTINGS` are in the folder of videos, as far as that is known."""
        pixels = self.videos.meta["preprocess"]
        made = {name: pixels[name] for name in SETTINGS[:3] if name in pixels}
        return {**made, "reduce": tuple(self.videos.meta["model"]["reduce"])}

    def identity(self) -> dict[str, Any]:
        """What a training that goes on has to find again."""
        meta, texts = self.videos.meta, self.texts.meta
        return {
            "pairs": Pairs.of(self.split).sha256,
            "base": meta["model"]["base"],
            "pixels": meta["preprocess"]["hash"].removeprefix("sha256:"),
            "cut": texts["words"] if texts["texts"]["truncated"] else None,
            "dtypes": [meta["dtype"], texts["dtype"]],
            "precisions": [meta["provenance"]["precision"], texts["provenance"]["precision"]],
        }


class StoredData(NamedTuple):
    """What a head is learned from, and what the best one is chosen by.

    Attributes:
        learned: captions that are learned.
        ranked: captions that are only ranked; None: there is no validation.
    """

    learned: Stored
    ranked: Stored | None

    @property
    def train(self) -> Split:
        """Captions that are learned."""
        return self.learned.split

    @property
    def val(self) -> Split | None:
        """Captions that are only ranked."""
        return None if self.ranked is None else self.ranked.split

    @property
    def absent(self) -> int:
        """Videos to validate on that have no features and are left out."""
        return 0 if self.ranked is None else len(self.ranked.absent)

    def kept(self) -> StoredData:
        """The same: captions are in memory."""
        return self

    def identity(self) -> dict[str, Any]:
        """As `Data.identity`."""
        val = None if self.ranked is None else self.ranked.identity()
        return {"train": self.learned.identity(), "val": val}

    def check(self, recipe: Recipe) -> None:
        """Refuse a recipe that these features do not go with.

        Raises:
            UsageError: a setting is another one than the features were made with, or the head
                cannot learn.
            IncompatibleError: the features to validate on were made otherwise.
        """
        made = self.learned.settings()
        for name, value in made.items():
            asked = getattr(recipe, name)
            if asked != value:
                raise UsageError(
                    f"{name} is {value!r} in {self.learned.videos.path}, {asked!r} in the recipe"
                )
        if recipe.initial_scale is not None:
            raise UsageError(
                "another logit scale is another CLIP, to which the features do not belong: "
                "initial_scale has to be none"
            )
        if recipe.accumulate > 1:
            raise UsageError(
                "no tower runs where features are learned from, so there is nothing to accumulate: "
                "accumulate has to be 1"
            )
        if not recipe.lr:
            raise UsageError("nothing would be learned: lr, that of the head, is 0")
        if self.ranked is not None and self.ranked.settings() != made:
            raise IncompatibleError(
                f"{self.ranked.videos.path} was made of other frames than "
                f"{self.learned.videos.path}: {self.ranked.settings()}, {made}"
            )

    def loader(self, model: Retriever, recipe: Recipe, *, jobs: int) -> FeatureLoader:
        """Batches of what is learned, after checking that it belongs to the model.

        Args:
            model: ready to be trained.
            recipe: its settings.
            jobs: not looked at: what is read is mapped into memory.

        Raises:
            IncompatibleError: the model is not the one that made the features, or the folders lack
                what its head needs.
            UsageError: the head has no parameters, or too few captions for a batch.
        """
        del jobs
        if not any(True for _ in model.head.parameters()):
            raise UsageError(
                f"the head {model.head_name} has no parameters, and features train nothing else; "
                "choose another --head, or train CLIP with --data"
            )
        for part in (self.learned, self.ranked):
            if part is not None:
                own = part.videos.meta["model"]
                what = "the training is to start"
                require_same(own, model.identity(), "base", folder=part.videos.path, what=what)
        learned = self.learned
        if recipe.clip_lr and recipe.scale_lr_factor:
            log.warning(
                "the logit scale learns, and is a part of CLIP: these features will not belong to "
                "the trained model"
            )
        return FeatureLoader(
            learned.split,
            stored_texts(model, learned.texts, learned.rows),
            stored_videos(model, learned.videos),
            batch_size=recipe.batch_size,
            words=model.text_length,
            seed=recipe.seed,
            rank=distributed.rank(),
            world=distributed.world(),
        )

    def learns(self, name: str) -> bool:
        """Whether a parameter of this name can be learned: those of the encoders cannot."""
        return name == SCALE or not name.startswith(("clip.", "reducers."))

    @torch.inference_mode()
    def validate(self, model: Retriever, *, jobs: int) -> dict[str, Any] | None:
        """As `Data.validate`; None where there is nothing to validate on, too.

        The first of several processes does it alone: no tower has to run.
        """
        del jobs
        if self.ranked is None or not distributed.leads():
            return None
        text = stored_texts(model, self.ranked.texts, self.ranked.rows)
        video = stored_videos(model, self.ranked.videos)
        scale = 1.0 if model.head.offline else model.scale
        sims = similarity_matrix(model.head, text, video, scale=scale)
        return metrics.summary(sims.numpy(), self.ranked.split.owner)
