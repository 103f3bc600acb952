"""All that a training needs to go on as if it had never stopped."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

from ttvr import distributed, plugins
from ttvr.errors import IncompatibleError, TtvrError
from ttvr.files import write, written
from ttvr.recipes import Recipe, settings_of
from ttvr.train._chance import Chance, chance, restore
from ttvr.train._folder import BEST, LAST, RECIPE, clear, peak_mib
from ttvr.train._setup import AnyData, Options, Parts

FORMAT = "ttvr-train/1"
Item = TypeVar("Item")


class Outcome(NamedTuple):
    """What a training came to.

    Attributes:
        step: after which the model was saved that is kept.
        steps: of the whole training.
        metrics: of that model on the validation split, as `metrics.summary`; None without one.
        seconds: that the training took, all its processes together.
    """

    step: int
    steps: int
    metrics: dict[str, Any] | None
    seconds: float


class State:
    """Where a training stands, apart from its parts.

    Attributes:
        steps: of the whole training.
        step: how many are done.
        best: the step and the metrics of the model that is kept so far.
        seconds: spent so far, by all processes.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.step = 0
        self.best: tuple[int, dict[str, Any] | None] | None = None
        self.seconds = 0.0

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> State:
        """As it was when `stored` was saved."""
        state = cls(stored["steps"])
        state.step, state.best, state.seconds = stored["step"], stored["best"], stored["seconds"]
        return state

    def improves(self, found: dict[str, Any] | None, select: str) -> bool:
        """Take note of a validation; whether its model is the one to keep.

        Args:
            found: its metrics; None where there is nothing to validate on.
            select: "best": if its text-to-video R@1 is better than all before; or "last": at the
                end of the training.
        """
        if select == "last":
            if self.step < self.steps:
                return False
        elif self.best is not None and found["t2v"]["R@1"] <= self.best[1]["t2v"]["R@1"]:
            return False
        self.best = (self.step, found)
        return True

    def save(self, folder: Path, parts: Parts, made_from: Mapping[str, Any]) -> None:
        """Write `last.pt`, whole or not at all; of several processes, the first one does.

        They agree in all that it holds: it does not say how many they were.
        """
        if not distributed.leads():
            return
        model, generators = parts.model.state_dict(), chance(parts.model.device)
        content = {
            "format": FORMAT,
            "made_from": made_from,
            "steps": self.steps,
            "step": self.step,
            "best": self.best,
            "seconds": self.seconds,
            "model": {name: part for name, part in model.items() if name not in parts.given},
            "optimizer": parts.optimizer.state_dict(),
            "scaler": parts.scaler.state_dict(),
            "rng": generators.cpu,
            "cuda_rng": generators.cuda,
        }
        write(folder / LAST, lambda file: torch.save(content, file))

    def outcome(self) -> Outcome:
        """What a training that is over came to."""
        step, found = self.best
        return Outcome(step, self.steps, found, self.seconds)


def selection(recipe: Recipe, options: Options, *, step: int, steps: int) -> dict[str, Any]:
    """How a model was chosen that was saved after `step` of `steps`, as `Retriever.trained`."""
    chosen = {"select": options.select, "on": _chosen_on(options), "step": step, "steps": steps}
    return {**chosen, "seed": recipe.seed}


def _chosen_on(options: Options) -> str | None:
    """What results call the split that the model is chosen by, if it is by one."""
    return options.chosen_on if options.select == "best" else None


def begin(
    folder: Path,
    stored: Mapping[str, Any] | None,
    parts: Parts,
    *,
    made_from: Mapping[str, Any],
    steps: int,
) -> State:
    """The first state of a process: that of `last.pt`, restored into the parts, or a new one."""
    if stored is None:
        if distributed.leads():
            clear(folder)
            with written(folder / RECIPE) as partial:
                partial.write_text(json.dumps(made_from["recipe"], indent=1) + "\n")
        # From here on a folder without it has lost it; and a disk that is too small says so now.
        state = State(steps)
        state.save(folder, parts, made_from)
        return state
    own = parts.model.state_dict()
    given = {name: own[name] for name in parts.given}
    parts.model.load_state_dict({**given, **stored["model"]})
    parts.optimizer.load_state_dict(stored["optimizer"])
    parts.scaler.load_state_dict(stored["scaler"])
    restore(Chance(stored["rng"], stored["cuda_rng"]), parts.model.device)
    return State.of(stored)


class Meter:
    """Time, memory and speed, for the log; the time goes into the state.

    Args:
        state: of the training.
        clips_per_step: in a batch.
        device: whose memory counts.
    """

    def __init__(self, state: State, clips_per_step: int, device: torch.device) -> None:
        self._state, self._clips, self._device = state, clips_per_step, device
        self._step, self._time, self._waited = state.step, time.monotonic(), 0.0

    def waiting(self, batches: Iterator[Item]) -> Iterator[Item]:
        """The same items, with the time that they are waited for."""
        while True:
            before = time.monotonic()
            try:
                item = next(batches)
            except StopIteration:
                return
            finally:
                self._waited += time.monotonic() - before
            yield item

    def lap(self) -> dict[str, float]:
        """Seconds of the training and MiB at most; of the steps since the lap before, if any.

        Of those, clips per second, and `wait`: the part of their time, 0..1, that passed waiting
        for batches.
        """
        now, state = time.monotonic(), self._state
        spent, steps = now - self._time, state.step - self._step
        state.seconds += spent
        self._time, self._step = now, state.step
        found = {"seconds": round(state.seconds, 3), "mib": peak_mib(self._device)}
        if steps:
            found["clips_per_second"] = round(steps * self._clips / spent, 1)
            found["wait"] = round(self._waited / spent, 6)
            self._waited = 0.0
        return found


def identity(recipe: Recipe, data: AnyData, options: Options) -> dict[str, Any]:
    """What a training has to agree with to be gone on with: everything that shapes its result.

    How often it writes its log, and how many clips it reads at once, shapes nothing.
    """
    # A loss of all processes together is the same one, whatever their number.
    gathers = plugins.load("heads", recipe.head).gather
    return {
        "recipe": settings_of(recipe),
        "processes": 1 if gathers else distributed.world(),
        "data": data.identity(),
        "activation": options.activation,
        "eval_every": options.eval_every,
        "select": options.select,
        "chosen_on": _chosen_on(options),
    }


def read(folder: Path, made_from: Mapping[str, Any]) -> dict[str, Any] | None:
    """The content of `last.pt`, or None where there is none yet.

    Raises:
        IncompatibleError: it is of a training with other settings or data; says which.
        TtvrError: it is damaged, or the best model that it tells of is gone.
        OSError: it cannot be read.
    """
    path = folder / LAST
    if not path.exists():
        return None
    with path.open("rb") as file:
        try:
            stored = torch.load(file, map_location="cpu", weights_only=True)
            found = stored["format"]
        # The reader meets arbitrary bytes and raises whatever they lead to, in torch's many words.
        except Exception as error:
            raise TtvrError(
                f"{path}: truncated, damaged, or of something else; put back a copy of it, or "
                "pass --overwrite to start anew"
            ) from error
    if found != FORMAT:
        raise IncompatibleError(
            f"{path}: format {found!r}, this ttvr goes on with {FORMAT!r}; pass another -o, or "
            "--overwrite to start anew"
        )
    # A setting that was not there yet had what is its default now.
    settings = {**settings_of(Recipe()), **stored["made_from"]["recipe"]}
    old = {"select": Options().select, "processes": 1, "chosen_on": made_from["chosen_on"]}
    before = {**old, **stored["made_from"], "recipe": settings}
    before.pop("log_every", None)  # was compared once
    if differing := [*_other_choice(before, made_from), *_differences(before, made_from)]:
        raise IncompatibleError(
            f"{folder} was trained otherwise, nothing was changed: {'; '.join(differing)}; "
            "use the same settings and data, another -o, or --overwrite to start anew"
        )
    if stored["best"] is not None and not (folder / BEST).exists():
        raise TtvrError(
            f"{folder / BEST} is gone, and was the best model so far: put it back, or pass "
            "--overwrite to start anew"
        )
    return stored


def _other_choice(before: dict[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """That another split chooses the best model, in words; taken out of `before`, which follows it.

    The hash of a split that is validated on comes and goes with the choice, and says nothing else.
    """
    old, new = before["chosen_on"], wanted["chosen_on"]
    if old == new or None in (old, new):
        return []
    before["chosen_on"] = new
    if not any(isinstance(part, Mapping) for part in before["data"].values()):
        own, other = before["data"], wanted["data"]
        before["data"] = {k: v for k, v in own.items() if k in other}
        before["data"] |= {k: v for k, v in other.items() if k not in own}
    return [f"best.pt was chosen on the split {old}, now on {new} (--select, --val-split)"]


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    differing = []
    for key in dict.fromkeys((*found, *wanted)):
        old, new = found.get(key), wanted.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            differing += _differences(old, new)
        elif old != new:
            differing.append(f"{key} is {_shown(old)}, now {_shown(new)}")
    return differing


def _shown(value: Any) -> str:
    """A value as it is typed; of a hash as much as tells it apart."""
    is_hash = isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value)
    return f"sha256:{value[:12]}" if is_hash else repr(value)
