"""The published systems: what their authors' checkpoints hold, and how they read a video."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any, NamedTuple


class System(NamedTuple):
    """What is to be known of a system beside its file, to make a model of it.

    Attributes:
        title: as its authors call it.
        head: name of its similarity head.
        heads: (pattern, head) pairs; the first pattern that a tensor's name matches decides
            instead of `head`. Patterns are those of `fnmatch`, here and below.
        marks: patterns of names that tell its checkpoints from those of systems further down.
        settings: of its recipe, where they are not the defaults.
        has_clustering: tokens are clustered in its visual tower, which no tensor tells.
        unused: patterns of tensors that its code makes and never reads, beside the head's own.
        advice: what else a file without its marks may be.
    """

    title: str
    head: str
    heads: tuple[tuple[str, str], ...] = ()
    marks: tuple[str, ...] = ()
    settings: tuple[tuple[str, Any], ...] = ()
    has_clustering: bool = False
    unused: tuple[str, ...] = ()
    advice: str = ""

    def head_of(self, names: Iterable[str]) -> str:
        """The head that tensors of these names belong to."""
        names = list(names)
        found = (head for pattern, head in self.heads if _any_is(names, (pattern,)))
        return next(found, self.head)


# One frame per second, and of those evenly spaced ones where there are more than the model takes.
_EACH_SECOND = (("sampler", "linspace"), ("fps", 1.0))

# From the most definite marks to the least: UCoFiA has all the names of X-CLIP, and more.
SYSTEMS = {
    "ucofia": System("UCoFiA", "ucofia", marks=("pixel_mat_weight*",), settings=_EACH_SECOND),
    "xclip": System("X-CLIP", "xclip", marks=("frame_mat_weight2",), settings=_EACH_SECOND),
    "tc_mgc": System(
        "TC-MGC", "tc_mgc", marks=("attentive_*", "concat_frame_*"), settings=_EACH_SECOND
    ),
    # Its authors take the middle of equal parts of all frames, and let CLIP read all it can.
    "xpool": System("X-Pool", "xpool", marks=("*cross_attn.*",), settings=(("words", 77),)),
    "drl": System(
        "DRL",
        "drl",
        marks=("*_weight_fc.*",),
        settings=_EACH_SECOND,
        advice="without tensors that weigh words and frames it is of another interaction: "
        "--set head_options=interaction=ti, or dp",
    ),
    "ts2net": System(
        "TS2-Net",
        "ts2net",
        marks=("*score_predictor.*",),
        settings=(*_EACH_SECOND, ("reduce", ("patch_shift",))),
        unused=("clip.*prompt*",),
    ),
    "clip4clip": System(
        "CLIP4Clip",
        "meanp",
        heads=(
            ("cross.*", "tight_transf"),
            ("lstm_visual.*", "seq_lstm"),
            ("transformerClip.*", "seq_transf"),
        ),
        marks=("cross.*", "lstm_visual.*", "transformerClip.*"),
        settings=_EACH_SECOND,
    ),
    # Videos at three frames per second, of which the middle ones of equal parts.
    "centerclip": System(
        "CenterCLIP",
        "meanp",
        heads=(("transformerClip.*", "seq_transf"),),
        settings=(("fps", 3.0),),
        has_clustering=True,
        unused=("clip.visual.*cluster_frame_embed*", "clip.visual.*time_embed*"),
    ),
}
"""By the name that `ttvr-weights convert --system` takes."""


def resembled(names: Iterable[str]) -> str | None:
    """The system that tensors of these names, without CLIP's, look like; None: like no other."""
    names = list(names)
    if not names:
        return "clip4clip"
    return next((name for name, system in SYSTEMS.items() if _any_is(names, system.marks)), None)


def is_any_of(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name matches one of the patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _any_is(names: Iterable[str], patterns: tuple[str, ...]) -> bool:
    return any(is_any_of(name, patterns) for name in names)
