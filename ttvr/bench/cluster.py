"""Time and memory of the clusterings beside the published batched loop, on the same tokens.

One thread, and processor time: other processes do not count. Each size is PROBLEMS,TOKENS,CLUSTERS;
the defaults are those of 12 frames on ViT-B/32 (64 segments of 3 x 49 tokens) and on ViT-B/16 (16
segments of 3 x 196). The tokens are Gaussian: on them the published loop takes the time it takes on
tokens of a ViT.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ttvr.bench._memory import quieten, used
from ttvr.bench._table import Table, alternate, median
from ttvr.errors import TtvrError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

GRAM, EIGEN = "Gram product, float32", "eigenvectors, float32"
OURS, SPECTRAL = "ttvr kmedoids", "ttvr spectral"
PUBLISHED = "published k-medoids"
TARGETS = (
    "targets: kmedoids 20 times as fast as published at 64,147,49 and 60 times at 16,588,160; "
    "within 3 and 2.5 Gram products; spectral within 2 kmedoids; memory of 4,588,160 within 5 "
    "matrices"
)
_FRAMES = 3
_JITTER = 0.5  # of a token from frame to frame, beside 1 from place to place
_CHUNKS = {True: 16, False: 4}  # published problems at a time: below 200 tokens, and from there
_COST = 0.02  # how far apart the published sums of distances may be: its distances are noisy


class Size(NamedTuple):
    """How many problems of how many tokens are put into how many clusters."""

    problems: int
    tokens: int
    clusters: int

    def __str__(self) -> str:
        return ",".join(map(str, self))


def _size(text: str) -> Size:
    values = [int(part) for part in text.split(",")]
    if len(values) != 3 or min(values) < 1 or values[2] > values[1]:
        raise ValueError(text)
    return Size(*values)


_size.__name__ = "size PROBLEMS,TOKENS,CLUSTERS"  # argparse shows it with a wrong value


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """Options of this benchmark."""
    group.add_argument(
        "--sizes",
        type=_size,
        nargs="+",
        default=[Size(64, 147, 49), Size(16, 588, 160)],
        metavar="B,N,K",
        help="problems, tokens of each, clusters",
    )
    group.add_argument("--dim", type=int, default=768, help="width of a token")
    group.add_argument(
        "--redundant",
        action="store_true",
        help="tokens of which those of one place are near in all frames; every loop ends early",
    )
    group.add_argument("--rounds", type=int, default=5, help="runs of each, in turn")
    group.add_argument(
        "--published",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run the published loop too (half a minute a round, and 3 GB)",
    )


def run(args: argparse.Namespace) -> Table:
    """Every contender on every size, with the ratios that the targets are about."""
    quieten()
    import torch

    if args.dim < 1:
        raise UsageError(f"--dim is at least 1, got {args.dim}")
    torch.set_num_threads(1)
    rows: list[tuple[Any, ...]] = []
    notes = [TARGETS]
    for size in args.sizes:
        points = _tokens(size, args.dim, is_redundant=args.redundant)
        contenders = _contenders(points, size)
        if args.published:
            notes.append(f"{size}: {_agreement(points, size)}")
            contenders[PUBLISHED] = partial(published, points, size.clusters)
        memory = {name: used(call).peak for name, call in contenders.items()}
        taken = alternate(contenders, rounds=args.rounds, clock=time.process_time)
        seconds = {name: median(runs) for name, runs in taken.items()}
        matrices = 4 * size.problems * size.tokens**2
        for name, own in seconds.items():
            slow = seconds[PUBLISHED] / own if args.published else "-"
            ratios = (own / seconds[GRAM], own / seconds[OURS], slow)
            rows.append((name, str(size), 1000 * own, *ratios, memory[name] / matrices))
    return Table(
        title=f"clusterings of tokens of width {args.dim}, one thread, processor time, "
        f"medians of {args.rounds}",
        columns=(
            *("clustering", "size", "ms", "Gram products", "kmedoids", "x published"),
            "[N,N] matrices",
        ),
        rows=rows,
        notes=[*notes, "matrices: peak of tensors beyond the tokens, over float32 [B,N,N]"],
    )


def _tokens(size: Size, dim: int, *, is_redundant: bool) -> Tensor:
    """[B, N, D] float32, Gaussian; redundant: a value of each place and a smaller of each token."""
    import torch

    chance = torch.Generator().manual_seed(0)
    own = torch.randn(size.problems, size.tokens, dim, generator=chance)
    if not is_redundant:
        return own
    places = -(-size.tokens // _FRAMES)
    common = torch.randn(size.problems, places, dim, generator=chance)
    return common.repeat(1, _FRAMES, 1)[:, : size.tokens] + _JITTER * own


def _contenders(points: Tensor, size: Size) -> dict[str, Callable[[], object]]:
    import torch

    from ttvr.cluster.kmedoids import kmedoids
    from ttvr.cluster.spectral import affinity, spectral

    # The published rule for the neighbors; a width at which their weights are of order one.
    neighbours = 5 * _FRAMES + (5 if size.tokens >= 100 * _FRAMES else 0)
    sigma = points.shape[2] ** 0.5
    weights = affinity(points, neighbours=neighbours, sigma=sigma)
    return {
        GRAM: lambda: points @ points.mT,
        EIGEN: partial(torch.linalg.eigh, weights),
        OURS: partial(kmedoids, points, size.clusters),
        SPECTRAL: partial(spectral, points, size.clusters, neighbours=neighbours, sigma=sigma),
    }


def published(points: Tensor, k: int, *, is_exact: bool = False) -> Tensor:
    """Centers [B, K] by the published batched loop, in its chunks.

    Written from `spec/centerclip.md` 1.5 to 1.7 and 7: distances from the float32 matrix product,
    shifted below zero by the largest of the chunk; every pick looks at all before it again; the
    medoids are updated through tensors [c, K, N, N]; a chunk stops as a whole.

    Args:
        points: [B, N, D] float32.
        k: clusters.
        is_exact: take exact distances in float64 instead, for which the result is defined.
    """
    import torch

    chunk = _CHUNKS[points.shape[1] < 200]
    return torch.cat([_loop(some, k, is_exact=is_exact) for some in points.split(chunk)])


def _loop(points: Tensor, k: int, *, is_exact: bool) -> Tensor:
    import torch

    c, N, _ = points.shape
    sample = torch.arange(c)[:, None]
    if is_exact:
        wide = points.double()
        apart = torch.cdist(wide, wide, compute_mode="donot_use_mm_for_euclid_dist").float()
        apart = apart.double()
    else:
        apart = torch.cdist(points, points)
    apart = apart - torch.eye(N)
    picks = points.norm(dim=-1).argmax(1, keepdim=True)
    while picks.shape[1] < k:
        farthest = apart[sample, picks].amin(1).argmax(1, keepdim=True)
        picks = torch.cat((picks, farthest), 1)
    below = apart - apart.max() - 1
    medoids = picks
    for _ in range(100):
        own = apart[sample, medoids].argmin(1)
        members = (own[:, None] == torch.arange(k)[:, None]).to(below.dtype)  # [c, K, N]
        both = members[:, :, :, None] * members[:, :, None, :]  # [c, K, N, N]
        moved = (below[:, None] * both).sum(-1).argmin(-1)
        # A token's sum over a cluster that is not its own is zero; the others are below.
        shift = (points[sample, moved] - points[sample, medoids]).norm(dim=-1).sum(1).mean()
        medoids = moved
        if shift < 1e-6:
            break
    return medoids.sort(1).values


def _agreement(points: Tensor, size: Size) -> str:
    """Whether ours are the published medoids, refusing to time what finds something else.

    Raises:
        TtvrError: the sums of distances are further apart than the published noise.
    """
    from ttvr.cluster.kmedoids import kmedoids

    found = kmedoids(points, size.clusters).centers
    exact = published(points, size.clusters, is_exact=True)
    noisy = published(points, size.clusters)
    costs = [_cost(points, centers) for centers in (found, exact, noisy)]
    for name, cost in (("with exact distances", costs[1]), ("as it is", costs[2])):
        if not abs(cost / costs[0] - 1) <= _COST:  # NaN is no agreement
            raise TtvrError(f"the published loop {name} ends at {cost:.6g}, ours at {costs[0]:.6g}")
    equal = [int((found == other).all(1).sum()) for other in (exact, noisy)]
    return (
        f"the published loop finds the medoids of ttvr in {equal[0]} of {size.problems} problems "
        f"with exact distances, in {equal[1]} with its own"
    )


def _cost(points: Tensor, centers: Tensor) -> float:
    """Sum over all tokens of the distance to the nearest center."""
    import torch

    kept = points.gather(1, centers[..., None].expand(-1, -1, points.shape[2]))
    return float(torch.cdist(points, kept).amin(-1).double().sum())


PLUGIN = run
