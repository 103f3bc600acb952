"""Checkpoints: any supported file in, a float32 state under OpenAI's names out.

Nothing in a file is ever executed.
"""

from __future__ import annotations

import hashlib
import logging
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ttvr.clip import ACTIVATIONS, _archive, _formats, _layouts, _sizes
from ttvr.clip._formats import RUN_FORMAT
from ttvr.clip._sizes import arch
from ttvr.clip._write import SIZES, SUFFIXES, random, random_state, save
from ttvr.clip.catalog import RANDOM, TOY, find, locate
from ttvr.errors import IncompatibleError, TtvrError

__all__ = [
    "RANDOM",
    "RUN_FORMAT",
    "SIZES",
    "SUFFIXES",
    "TOY",
    "Checkpoint",
    "arch",
    "fingerprint",
    "load",
    "locate",
    "random",
    "random_state",
    "read",
    "read_official",
    "save",
    "verify",
]

_LOG = logging.getLogger(__name__)
_BOTH_TOWERS = ("visual.proj", "text_projection")
_OVERLAP = 4
_ROOM = 1 << 20


class Checkpoint(NamedTuple):
    """A checkpoint, read and checked.

    Attributes:
        clip: tensors by OpenAI's names, float32, contiguous, in OpenAI's order.
        head: tensors of the similarity head, float32; empty unless a ttvr run.
        recipe: the settings of a ttvr run; else empty.
        source: the name it was asked for by, or the absolute path; `locate` takes it.
        activation: "quick_gelu" or "gelu"; None where the file does not tell.
        reducers: tensors of the token reducers, float32; empty unless a ttvr run.
        format: what kind of file it was, in words.
        note: what the file says of itself: "random (meaningless)"; mostly empty.
        training: seed and selection of a ttvr run, as `Retriever.trained`; else empty.
    """

    clip: dict[str, Tensor]
    head: dict[str, Tensor]
    recipe: dict[str, Any]
    source: str
    activation: str | None
    reducers: dict[str, Tensor]
    format: str
    note: str
    training: Mapping[str, Any] = MappingProxyType({})


def load(path_or_name: str | Path) -> dict[str, Tensor]:
    """A CLIP state: tensors by OpenAI's names, float32.

    Args:
        path_or_name: a checkpoint, or a name that `ttvr-weights list` shows.

    Raises:
        RequirementError: not found, or an optional package is needed to read it.
        TtvrError: not a complete CLIP, damaged, or a file that asks for more than data.
    """
    return read(path_or_name).clip


def read(path_or_name: str | Path) -> Checkpoint:
    """A checkpoint with all that is known of it. Arguments and errors are those of `load`."""
    path = locate(path_or_name)
    with _blamed(path):
        raw = _formats.read(path)
        _limit(raw, path.stat().st_size)
        clip = _sizes.check(_layouts.to_openai(raw.tensors))
        clip = _masters(clip, is_mapped=raw.is_mapped)
        run = raw.run or {}
        head, reducers = (_masters(run.get(part, {})) for part in ("head", "reducers"))
        stated, note = _activation(raw), _note(raw)
    entry = find(str(path_or_name))
    is_named = entry is not None and entry.file == path.name and str(path_or_name) != entry.file
    source = entry.name if is_named else str(path)
    if note and note != TOY:  # who uses a toy on what it does not know says so
        _LOG.warning("%s holds weights that call themselves %s", path, note)
    # A file that was asked for by OpenAI's name holds OpenAI's weights, whatever its format.
    activation = stated or ("quick_gelu" if is_named else None)
    recipe, training = run.get("recipe", {}), run.get("training", {})
    return Checkpoint(clip, head, recipe, source, activation, reducers, raw.format, note, training)


def read_official(
    path_or_name: str | Path, *, is_beside: Callable[[str], bool] = lambda _: False
) -> Checkpoint:
    """A checkpoint of a system that its authors built on CLIP.

    Args:
        path_or_name: as `load`.
        is_beside: whether a name that begins with `clip.` is none of CLIP's all the same.

    Returns:
        As `read`, `head` being all that is not CLIP's, by the authors' names.

    Raises:
        RequirementError: as `load`.
        TtvrError: damaged, or a file that asks for more than data.
        IncompatibleError: what stands below `clip.` is not the whole of a CLIP, or it is a ttvr
            run.
    """
    path = locate(path_or_name)
    with _blamed(path):
        raw = _formats.read(path)
        _limit(raw, path.stat().st_size)
        if raw.run is not None:
            raise IncompatibleError("a ttvr run already, which every -w takes")
        if odd := [name for name in raw.tensors if not name.isprintable()]:
            raise TtvrError(f"damaged: the name of a tensor is {_layouts.shown(odd[0])}")
        clip, rest = _layouts.split(raw.tensors, is_beside)
        if not clip:
            found = _layouts.some(list(rest))
            raise IncompatibleError(
                f"no tensor stands below clip., where CLIP's are; it has {found}"
            )
        try:
            clip = _sizes.check(_layouts.to_openai(clip))
        except TtvrError as error:
            raise IncompatibleError(f"below clip.: {error}") from error
        if absent := [name for name in _BOTH_TOWERS if name not in clip]:
            raise IncompatibleError(f"below clip.: a tower is missing, with {', '.join(absent)}")
        clip, head = (_masters(part, is_mapped=raw.is_mapped) for part in (clip, rest))
    return Checkpoint(clip, head, {}, str(path), _activation(raw), {}, raw.format, _note(raw))


def verify(path_or_name: str | Path) -> Checkpoint:
    """Like `read`, and compares the checksums that an archive has of its records."""
    path = locate(path_or_name)
    with _blamed(path):
        if zipfile.is_zipfile(path):
            _archive.check_sums(path)
    return read(path_or_name)


def fingerprint(state: dict[str, Tensor]) -> str:
    """What a state is, whatever file it came from.

    Args:
        state: tensors as `load` returns them, or those of a head.

    Returns:
        "sha256:" and the hash over tensors sorted by name of (name, dtype, shape, bytes).
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        dtype = str(tensor.dtype).removeprefix("torch.")
        digest.update(f"{name}\0{dtype}\0{list(tensor.shape)}\0".encode())
        if tensor.numel():
            digest.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
    return f"sha256:{digest.hexdigest()}"


@contextmanager
def _blamed(path: Path) -> Iterator[None]:
    """Whatever arbitrary bytes lead to, as one line that names the file."""
    try:
        yield
    except OSError:
        raise
    except TtvrError as error:
        if str(error).startswith(str(path)):
            raise
        raise type(error)(f"{path}: {error}") from error
    except Exception as error:
        why = _layouts.shown(f"{type(error).__name__}: {error}")
        raise TtvrError(f"{path}: damaged, or no checkpoint ({why})") from error


def _limit(raw: _formats.Raw, size: int) -> None:
    """Refuse tensors that share so much storage that copies would not fit what the file is."""
    if raw.format == "ttvr npz":
        return
    run = raw.run or {}
    parts = (raw.tensors, run.get("head", {}), run.get("reducers", {}))
    total = sum(tensor.nbytes for part in parts for tensor in part.values())
    if total > _OVERLAP * size + _ROOM:
        raise TtvrError(f"refused: {total} bytes of tensors overlap in a file of {size}")


def _masters(tensors: dict[str, Tensor], *, is_mapped: bool = False) -> dict[str, Tensor]:
    """float32 (a head's integers stay), contiguous, finite, independent of the file."""
    made = {
        name: tensor.detach()
        .to(torch.float32 if tensor.is_floating_point() else tensor.dtype, copy=is_mapped)
        .contiguous()
        for name, tensor in tensors.items()
    }
    broken = [name for name, tensor in made.items() if not _is_finite(tensor)]
    if broken:
        raise TtvrError(f"NaN or infinity in {_layouts.some(broken)}")
    return made


def _is_finite(tensor: Tensor) -> bool:
    # A sum shows what is not finite fifty times faster than isfinite; it may overflow by itself.
    return bool(torch.isfinite(tensor.sum())) or bool(torch.isfinite(tensor).all())


def _activation(raw: _formats.Raw) -> str | None:
    """As the file says, else what its kind implies: OpenAI's archives and ours use QuickGELU."""
    stated = raw.label.get("activation")
    if stated is None:
        return "quick_gelu" if raw.format in ("TorchScript archive", "ttvr npz") else None
    if stated not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise TtvrError(f"activation {_layouts.shown(stated)!r} is none of {known}")
    return stated


def _note(raw: _formats.Raw) -> str:
    note = raw.label.get("note", "")
    if not isinstance(note, str):
        raise TtvrError("its label is damaged")
    return _layouts.shown(note)
