"""From a checkpoint of a published system, as its authors wrote it, to a retriever."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ttvr import plugins, reducers
from ttvr.clip import model as clip_model
from ttvr.clip import weights as checkpoints
from ttvr.clip.model import CLIP
from ttvr.errors import IncompatibleError, UsageError
from ttvr.heads._base import Head
from ttvr.recipes import Recipe, from_settings
from ttvr.reducers import Plan
from ttvr.retriever import _reduction
from ttvr.retriever._load import head_sizes
from ttvr.retriever._model import Retriever
from ttvr.systems import SYSTEMS, System, is_any_of, resembled

ACTIVATION = "quick_gelu"  # all of them start from OpenAI's weights

_TOLD = ("frames", "words")
_SIZES = ("width", *_TOLD)
_DECIDED = ("head", "weights")
_VOLUMES = "clip.visual.conv2.*"
_EMBEDDINGS, _EMBEDDED = "clip.visual.*cluster_embed*", "cluster_embedding"
_BLOCK = re.compile(r"clip\.visual\.transformer\.resblocks\.(\d+)\..+")
# What comes of a tensor that is not there, or of another shape, where a head looks for its sizes.
_MISFITS = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


class Official(NamedTuple):
    """What became of a checkpoint.

    Attributes:
        model: in evaluation mode, its recipe complete.
        unused: names of the tensors that never enter a score, which were left out.
    """

    model: Retriever
    unused: tuple[str, ...]


class _Parts(NamedTuple):
    """A checkpoint beside its CLIP: the head, reducers by their blocks, names of unused tensors."""

    head: dict[str, Tensor]
    embeddings: dict[int, Tensor]
    unused: list[str]


def from_official(
    system: str,
    path: str | Path,
    *,
    heads: int | None = None,
    settings: Mapping[str, Any] | None = None,
    reduce: Sequence[str] = (),
) -> Official:
    """The model of a checkpoint in the layout of a published system's authors.

    Args:
        system: a name of `ttvr.systems.SYSTEMS`.
        path: a state dict or safetensors: CLIP's tensors below `clip.`, in OpenAI's or Hugging
            Face's layout, and the head's by the authors' names, whatever wrapped them.
        heads: of the head's attention, which no tensor tells; None: the head's default.
        settings: of the recipe, as `recipes.from_settings`; they go before what the tensors tell.
        reduce: token reducers, as `retriever.load`; none: those the system is known to have.

    Raises:
        UsageError: no such system, a setting that cannot be, or `reduce` is needed.
        IncompatibleError: tensors are missing, unknown or of another shape; they are listed, and
            the system that the file looks like is named where it is another.
        RequirementError: as `clip.weights.read`.
        TtvrError: likewise.
    """
    known, given = _system(system), dict(settings or {})
    if taken := [name for name in _DECIDED if name in given]:
        raise UsageError(f"{' and '.join(taken)} cannot be set: the checkpoint decides")
    base = from_settings({**dict(known.settings), **given})
    if known.has_clustering and not reduce and "reduce" not in given:
        raise UsageError(
            f"no tensor of a {known.title} checkpoint tells its clustering: pass --reduce as it "
            "was trained, --reduce kmedoids@6:4,49 for instance, or --reduce none"
        )
    checkpoint = checkpoints.read_official(path, is_beside=partial(_is_beside, known))
    with _blamed(path, system, checkpoint.head, is_asked=bool(given or reduce or heads)):
        parts = _parts(known, checkpoint.head)
        clip = clip_model.build(checkpoint.clip, activation=ACTIVATION)
        plan = _plan(clip, tuple(reduce) or base.reduce, parts.embeddings)
        name = known.head_of(parts.head)
        plugin = plugins.load("heads", name)
        told = _told(plugin, parts.head)
        recipe = _recipe(base, given, told, clip=clip, plan=plan)
        options = _options(plugin, dict(recipe.head_options), told, heads=heads)
        head = plugin.from_official(parts.head, **head_sizes(recipe, clip, plan), **options)
    used = {id(tensor) for tensor in plugin.official_tensors(parts.head).values()}
    unused = [key for key, tensor in parts.head.items() if id(tensor) not in used]
    recipe = replace(
        recipe,
        head=name,
        head_options=tuple(sorted(plugins.beyond_defaults(plugin, options).items())),
        weights=checkpoint.source,
        reduce=tuple(plan.canonical),
    )
    model = Retriever(
        clip, head, plan=plan, recipe=recipe, source=recipe.weights, activation=ACTIVATION
    )
    return Official(model.eval(), (*parts.unused, *unused))


def _system(name: str) -> System:
    if name not in SYSTEMS:
        raise UsageError(f"no system {name!r}; there are: {', '.join(sorted(SYSTEMS))}")
    return SYSTEMS[name]


def _is_beside(system: System, name: str) -> bool:
    """Whether a name that begins with `clip.` is none of CLIP's all the same."""
    clustering = (_EMBEDDINGS,) if system.has_clustering else ()
    return is_any_of(name, (_VOLUMES, *clustering, *system.unused))


@contextmanager
def _blamed(
    path: str | Path, asked: str, names: Iterable[str], *, is_asked: bool
) -> Iterator[None]:
    """Errors that name the file, and the system that it looks like where it is another.

    Args:
        path: of the file.
        asked: the system it was said to be of.
        names: of its tensors, without CLIP's.
        is_asked: the user chose settings, so what does not fit is wrong use, unless all is wrong.
    """
    hint = _hint(list(names), asked)
    try:
        yield
    except IncompatibleError as error:
        raise IncompatibleError(f"{path}: {error}{hint}") from error
    except UsageError as error:
        if is_asked and not hint:
            raise
        raise IncompatibleError(f"{path}: {error}{hint}") from error
    except _MISFITS as error:
        why = f"not a checkpoint of {SYSTEMS[asked].title} ({type(error).__name__}: {error})"
        raise IncompatibleError(f"{path}: {why}{hint}") from error


def _hint(names: list[str], asked: str) -> str:
    """What could mend a file of tensors of these names that is none of the system `asked`."""
    looks, known = resembled(names), SYSTEMS[asked]
    if looks == asked or looks is None or SYSTEMS[looks].head_of(names) == known.head_of(names):
        return ""
    advice = f"; {known.advice}" if known.advice else ""
    return f"{advice}; it looks like one of {SYSTEMS[looks].title}: --system {looks}"


def _parts(system: System, tensors: Mapping[str, Tensor]) -> _Parts:
    """The tensors that are not CLIP's, by what they are."""
    head: dict[str, Tensor] = {}
    embeddings: dict[int, Tensor] = {}
    unused = [name for name in tensors if is_any_of(name, system.unused)]
    for name in [name for name in tensors if name not in unused]:
        block = _BLOCK.fullmatch(name)
        if is_any_of(name, (_VOLUMES,)):
            raise IncompatibleError(
                f"its patches span several frames ({name}, as made by --linear_patch 3d), which "
                "those of ttvr's CLIP do not"
            )
        if block and is_any_of(name, (_EMBEDDINGS,)):
            embeddings[int(block[1])] = tensors[name]
        elif name.startswith("clip."):
            raise IncompatibleError(f"unknown {name}: it belongs to no block of the visual tower")
        else:
            head[name] = tensors[name]
    return _Parts(head, embeddings, unused)


def _plan(clip: CLIP, texts: Sequence[str], embeddings: Mapping[int, Tensor]) -> Plan:
    """Token reducers, with the embeddings of clusters that the file has for their blocks."""
    stages = [
        stage._replace(options=tuple(sorted({**dict(stage.options), _EMBEDDED: True}.items())))
        if stage.block in embeddings
        else stage
        for stage in reducers.parse(texts)
    ]
    plan = _reduction.plan(clip, [str(stage) for stage in stages], frames=())
    own = {f"{block}.{_EMBEDDED}": tensor for block, tensor in embeddings.items()}
    try:
        _reduction.as_module(plan).load_state_dict(own)
    except RuntimeError as error:
        have = ", ".join(f"{list(t.shape)} in block {b}" for b, t in embeddings.items()) or "none"
        asked = " ".join(plan.canonical) or "none"
        raise IncompatibleError(
            f"cluster embeddings of the file: {have}, which do not fit --reduce {asked}"
        ) from error
    return plan


def _told(plugin: type[Head], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the tensors tell of how the head is built."""
    told = plugin.official_options(plugin.official_tensors(tensors))
    known = inspect.signature(plugin).parameters
    return {name: value for name, value in told.items() if name in known}


def _recipe(
    base: Recipe, given: Mapping[str, Any], told: Mapping[str, Any], *, clip: CLIP, plan: Plan
) -> Recipe:
    """The settings with the sizes that tensors tell, unless they are given."""
    sizes = {"words": min(base.words, clip.context_length)}
    # A head on segments tells how many of them, not how many frames they were made of.
    sizes |= {size: told[size] for size in _TOLD if size in told}
    if plan.segments:
        sizes.pop("frames", None)
    recipe = replace(base, **{size: n for size, n in sizes.items() if size not in given})
    plan.left_of(recipe.frames)
    if recipe.words > clip.context_length:
        raise UsageError(f"{recipe.words} words, its CLIP takes {clip.context_length}")
    return recipe


def _options(
    plugin: type[Head], given: Mapping[str, Any], told: Mapping[str, Any], *, heads: int | None
) -> dict[str, Any]:
    """Options of the head: those given go before those that the tensors tell."""
    given = {**given, **({} if heads is None else {"heads": heads})}
    plugins.require_options(plugin, given, _SIZES)
    return {**{name: value for name, value in told.items() if name not in _SIZES}, **given}
