"""Time and memory of scoring pairs, beside the direct form of the same heads, on random features.

One thread, and processor time: other processes do not count. The direct form holds what it makes of
every pair, as the equations read and as the authors evaluate; where that is more than a machine
has, or takes minutes, it scores fewer texts and videos, and is compared per pair. Heads with a
choice have no temporal step here, which would be the same work for both. With --gallery: one query
over all videos, and over the nearest by vectors alone, as `ttvr-rank --rerank` does.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ttvr import plugins
from ttvr.bench._memory import quieten, used
from ttvr.bench._table import Table, alternate, median
from ttvr.errors import TtvrError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from ttvr.heads._base import Head
    from ttvr.records import TextFeatures, VideoFeatures

OURS, PREPARED, DIRECT = "ttvr", "ttvr, prepared", "direct"
ALL, NEAREST = "all videos", "nearest by vectors"
TARGETS = (
    "targets, 500 texts and videos: tc_mgc 20 times as fast as the direct form, xpool 5 times, "
    "drl, xclip and ucofia twice; 1000 by 1000 of tc_mgc within 1 GiB; --gallery 10000 --rerank 50 "
    "of tc_mgc 100 times as fast as all videos"
)
SCALE = 100.0
_AGREE = 1e-3  # of logits, of the largest: one rounds in float32 what the other never makes
_OPTIONS: dict[str, dict[str, Any]] = {
    "drl": {"temporal": "none"},
    "xclip": {"temporal": "none"},
    "ucofia": {"temporal": "none", "patches": "given"},
}
_TOP = 3  # patches of a frame that UCoFiA is given
_SMALLER = {"tc_mgc": 64, "ucofia": 250}  # texts and videos of the direct form

Direct = Callable[["Head", "TextFeatures", "VideoFeatures"], "Tensor"]


class Features(NamedTuple):
    """Random features of one seed.

    Attributes:
        text: Nt texts.
        video: Nv videos.
    """

    text: TextFeatures
    video: VideoFeatures


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """Options of this benchmark."""
    group.add_argument(
        "--heads",
        nargs="+",
        choices=plugins.names("heads"),
        default=["tc_mgc", "xpool", "drl", "xclip", "ucofia"],
        metavar="HEAD",
        help="similarity heads",
    )
    group.add_argument("--texts", type=int, default=500, help="texts")
    group.add_argument("--videos", type=int, default=500, help="videos")
    group.add_argument("--frames", type=int, default=12, help="of a video")
    group.add_argument("--words", type=int, default=32, help="positions of a text")
    group.add_argument(
        "--real-words",
        type=int,
        nargs=2,
        metavar=("FROM", "TO"),
        help="how many of them are real, evenly spread (default: all)",
    )
    group.add_argument("--dim", type=int, default=512, help="width of the features")
    group.add_argument(
        "--patches", type=int, default=49, help="of a frame, where a head takes them"
    )
    group.add_argument("--patch-norm", type=float, default=10.0, help="their length")
    group.add_argument("--rounds", type=int, default=3, help="runs of each, in turn")
    group.add_argument(
        "--direct",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run the direct form too",
    )
    group.add_argument(
        "--gallery", type=int, metavar="N", help="one query over so many videos, in two stages"
    )
    group.add_argument("--rerank", type=int, default=50, help="candidates of the second stage")


def run(args: argparse.Namespace) -> Table:
    """Every head, with and without its states prepared, beside its direct form."""
    quieten()
    import torch

    _check(args)
    torch.set_num_threads(1)
    rows: list[tuple[Any, ...]] = []
    notes = [TARGETS]
    for name in args.heads:
        head = _head(name, args)
        if args.gallery:
            rows += _two_stages(name, head, args)
        else:
            rows += _matrix(name, head, args, notes)
    if args.gallery:
        columns = ("head", "over", "ms/query", "x all")
        among = min(args.rerank, args.gallery)
        what = f"one query over {args.gallery} videos, {among} in the second stage"
    else:
        columns = ("head", "form", "pairs", "ms", "us/pair", "x direct", "MiB")
        what = f"scores of {args.texts} texts and {args.videos} videos"
        notes.append("MiB: peak of tensors beyond features and head")
    sizes = f"{args.frames} frames, {args.words} words, width {args.dim}"
    return Table(
        title=f"{what}, {sizes}, one thread, processor time, medians of {args.rounds}",
        columns=columns,
        rows=rows,
        notes=notes,
    )


def _check(args: argparse.Namespace) -> None:
    sizes = ("texts", "videos", "frames", "words", "dim", "patches", "rerank")
    for size in (*sizes, *(["gallery"] if args.gallery is not None else [])):
        if getattr(args, size) < 1:
            raise UsageError(f"--{size} is at least 1, got {getattr(args, size)}")
    if args.real_words is not None:
        first, last = args.real_words
        if not 1 <= first <= last <= args.words:
            raise UsageError(f"--real-words lie in 1 to {args.words}, got {first} {last}")


def _head(name: str, args: argparse.Namespace) -> Head:
    """A head as training would start from it, in evaluation mode."""
    import torch

    torch.manual_seed(0)
    sizes = {"width": args.dim, "frames": args.frames, "words": args.words}
    return plugins.load("heads", name)(**sizes, **_OPTIONS.get(name, {})).eval()


def _features(head: Head, args: argparse.Namespace, *, texts: int, videos: int) -> Features:
    import torch

    from ttvr.records import TextFeatures, VideoFeatures

    chance = torch.Generator().manual_seed(0)
    T, L, D = args.frames, args.words, args.dim
    first, last = args.real_words or (L, L)
    lengths = first + torch.arange(texts) % (last - first + 1)
    mask = torch.arange(L) < lengths[:, None]
    words = torch.randn(texts, L, D, generator=chance) if head.needs_words else None
    text = TextFeatures(torch.randn(texts, D, generator=chance), words, mask)
    patches = None
    if head.needs_patches:
        count = _TOP if getattr(head, "patches", "") == "given" else args.patches
        patches = torch.randn(videos, T, count, D, generator=chance)
        patches *= args.patch_norm / patches.norm(dim=-1, keepdim=True)
    frames = torch.randn(videos, T, D, generator=chance)
    return Features(text, VideoFeatures(frames, torch.ones(videos, T, dtype=torch.bool), patches))


def _matrix(
    name: str, head: Head, args: argparse.Namespace, notes: list[str]
) -> list[tuple[Any, ...]]:
    """Rows of one head; what the direct form could not do is noted."""
    from ttvr.score import similarity_matrix

    text, video = _features(head, args, texts=args.texts, videos=args.videos)
    ours = partial(similarity_matrix, head, text, video, scale=SCALE)
    contenders = {OURS: ours, PREPARED: _prepared(head, text, video)}
    pairs = dict.fromkeys(contenders, args.texts * args.videos)
    direct = _direct_forms().get(name) if args.direct else None
    if direct is not None:
        most = _SMALLER.get(name, max(args.texts, args.videos))
        few = type(text)(*(_first(x, most) for x in text))
        some = type(video)(*(_first(x, most) for x in video))
        contenders[DIRECT] = _without_gradient(partial(direct, head, few, some))
        pairs[DIRECT] = len(few.sentence) * len(some.frames)
        _require_equal(name, contenders[DIRECT](), head, few, some)
    elif args.direct:
        notes.append(f"{name}: no direct form here")
    memory = {contender: used(call).peak for contender, call in contenders.items()}
    taken = alternate(contenders, rounds=args.rounds, clock=time.process_time)
    seconds = {contender: median(runs) for contender, runs in taken.items()}
    each = {contender: own / pairs[contender] for contender, own in seconds.items()}
    return [
        (
            *(name, contender, pairs[contender], 1e3 * own, 1e6 * each[contender]),
            each[DIRECT] / each[contender] if DIRECT in each else "-",
            memory[contender] / 2**20,
        )
        for contender, own in seconds.items()
    ]


def _two_stages(name: str, head: Head, args: argparse.Namespace) -> list[tuple[Any, ...]]:
    """Rows of one head: a query whose frames are read and prepared for it, as from a folder."""
    import torch

    from ttvr.score import inner_products, text_vectors, top_pairs, video_vectors

    text, video = _features(head, args, texts=1, videos=args.gallery)
    vectors = video_vectors(head, video, device=torch.device("cpu"))
    among = min(args.rerank, args.gallery)

    def rerank() -> object:
        asked = text_vectors(head, text, device=torch.device("cpu"))
        nearest = inner_products(asked, vectors).topk(among).indices
        return top_pairs(head, text, video, 10, among=nearest, scale=SCALE)

    contenders: dict[str, Callable[[], object]] = {
        ALL: partial(top_pairs, head, text, video, 10, scale=SCALE),
        NEAREST: rerank,
    }
    taken = alternate(contenders, rounds=args.rounds, clock=time.process_time)
    seconds = {contender: median(runs) for contender, runs in taken.items()}
    return [(name, contender, 1e3 * own, seconds[ALL] / own) for contender, own in seconds.items()]


def _prepared(head: Head, text: TextFeatures, video: VideoFeatures) -> Callable[[], Tensor]:
    """Scoring alone, of states that are kept."""
    import torch

    with torch.inference_mode():
        states = head.prepare_text(text), head.prepare_video(video)
    return _without_gradient(
        lambda: head.fuse(head.similarities(*states), torch.tensor(SCALE)),
    )


def _direct_forms() -> dict[str, Direct]:
    """Logits at the scale `SCALE`, of heads that have a direct form."""
    import torch

    from ttvr.bench import _direct_drl, _direct_fine, _direct_heads

    scale = torch.tensor(SCALE)
    return {
        "drl": lambda head, text, video: _direct_drl.drl(head, text, video, scale),
        "tc_mgc": lambda head, text, video: _direct_heads.tc_mgc(text, video, head, scale=SCALE),
        "ucofia": lambda head, text, video: _direct_fine.ucofia(head, text, video, scale),
        "xclip": lambda head, text, video: _direct_fine.xclip(head, text, video, scale),
        "xpool": lambda head, text, video: scale * _direct_heads.xpool(text, video, head),
    }


def _require_equal(
    name: str, direct: Tensor, head: Head, text: TextFeatures, video: VideoFeatures
) -> None:
    """Refuse to time what computes something else.

    Raises:
        TtvrError: scores differ by more than rounding.
    """
    from ttvr.score import similarity_matrix

    ours = similarity_matrix(head, text, video, scale=SCALE)
    apart = float((ours - direct).abs().max() / direct.abs().max())
    if not apart <= _AGREE:
        raise TtvrError(f"{name}: scores are {apart:.2g} of the largest from the direct form's")


def _first(values: Tensor | None, count: int) -> Tensor | None:
    return None if values is None else values[:count]


def _without_gradient(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    import torch

    return torch.inference_mode()(call)


PLUGIN = run
