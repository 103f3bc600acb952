"""Which patches of a video token clustering keeps, collected from a model while it runs.

Apart from the drawing, which needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ttvr import frames as framing
from ttvr import plugins, retriever, video
from ttvr.clip.model import CLIP
from ttvr.cluster import Clusters
from ttvr.errors import UsageError, VideoError
from ttvr.reducers import Plan, Stage
from ttvr.reducers._base import Reduced
from ttvr.retriever import Retriever
from ttvr.show._figure import Map, Segmentation

_FRAMES_OF_A_SEGMENT = (2, 3, 4)
"""Of Zhao et al. (SIGIR 2022), Figure 5 and Table 4: 6, 4 and 3 segments of 12 frames."""


def usual_plans(clip: CLIP, frames: int) -> list[list[str]]:
    """The paper's plans, for a model that was trained without reducers: several S side by side.

    After half of the blocks, as many tokens as a frame has patches, found by k-medoids.

    Args:
        clip: with a visual tower.
        frames: T.

    Returns:
        Plans, each as `retriever.load` takes it, that fit the model.
    """
    patches = len(clip.visual.positional_embedding) - 1
    block = len(clip.visual.transformer.resblocks) // 2
    counts = [frames // d for d in _FRAMES_OF_A_SEGMENT if frames % d == 0] or [1]
    return [[f"kmedoids@{block}:{count},{patches}"] for count in counts]


def plan(
    clip: CLIP, texts: Sequence[str], *, frames: int, load: Callable[[Sequence[str]], Retriever]
) -> Plan:
    """A plan for a model that is there already.

    Args:
        clip: the model, with a visual tower.
        texts: the stages, each as `retriever.load` takes it.
        frames: T.
        load: the same model with another plan; called only where reducers have weights, which a
            checkpoint may hold.

    Raises:
        UsageError: a stage does not fit the model or the frames.
    """
    made = retriever.plan(clip, texts, frames=[frames])
    has_weights = any(reducer.state_dict() for reducer in made.reducers.values())
    return load(texts).plan if has_weights else made


def require_clusters(stages: Iterable[Stage]) -> None:
    """Refuse a plan whose tokens cannot be followed back to the patches of the video.

    Raises:
        UsageError: nothing clusters, or a stage merges frames without clusters; names those that
            have some.
    """
    stages = tuple(stages)
    is_clustering = [_has_clusters(stage.name) for stage in stages]
    for stage, has in zip(stages, is_clustering, strict=True):
        is_merging = plugins.load("reducers", stage.name).is_staged
        if not has and (is_merging or not any(is_clustering)):
            raise UsageError(f"{stage} has no clusters to show; {_those_that_have()}")
    if not stages:
        raise UsageError(f"without a reducer there are no clusters to show; {_those_that_have()}")


def _has_clusters(name: str) -> bool:
    return hasattr(plugins.load("reducers", name), "cluster")


def _those_that_have() -> str:
    having = (name for name in plugins.names("reducers") if _has_clusters(name))
    return f"reducers that have: {', '.join(having)}"


def read(
    path: str | Path, *, frames: int, sampler: str, fps: float | None, size: int
) -> video.Frames:
    """Frames of a video or a folder of images as the model takes them.

    Args:
        path: of either.
        frames: T at most.
        sampler: a name of `frames.SAMPLERS`.
        fps: candidates per second; None: all frames.
        size: side of the square, pixels.

    Raises:
        VideoError: there are none.
        RequirementError: there is no ffmpeg.
    """
    if not Path(path).exists():
        raise VideoError("invalid_data", "no such file")
    choose = framing.SAMPLERS[sampler]
    return video.read_frames(path, lambda n: choose(n, frames), fps=fps, size=size)


@torch.inference_mode()
def collect(
    clip: CLIP, plan: Plan, pixels: np.ndarray, *, frames: int, maps: bool = False
) -> Segmentation:
    """What a plan keeps of a video.

    Args:
        clip: in evaluation mode.
        plan: for it, with stages that `require_clusters` lets pass.
        pixels: [t, size, size, 3] uint8 RGB, 1 to T of them. What lacks is the last one repeated,
            as `Retriever.encode_video` has it; it takes part in the clustering unless the plan says
            mask=true.
        frames: T.
        maps: project the tokens of each segment onto a plane too.

    Returns:
        Clusters of the last stage, followed back to the patches through those before.
    """
    chosen = np.arange(frames).clip(max=len(pixels) - 1)
    batch = framing.normalize(pixels[chosen]).unsqueeze(0)  # [1, T, 3, size, size]
    mask = torch.arange(frames).unsqueeze(0) < len(pixels)
    device = clip.visual.proj.device
    found: list[tuple[Tensor, Clusters]] = []
    handles = [
        reducer.register_forward_hook(_collector(found))
        for reducer in dict.fromkeys(plan.reducers.values())
    ]
    try:
        clip.encode_video(batch.to(device), mask.to(device), plan.reducers)
    finally:
        for handle in handles:
            handle.remove()
    origin, token = follow([clusters for _, clusters in found], frames * plan.patches)
    S, K = found[-1][1].centers.shape
    return Segmentation(
        plan=" + ".join(plan.canonical),
        origin=origin.view(S, K).numpy(),
        token=token.view(frames, -1).numpy(),
        maps=_maps(*found[-1]) if maps else (),
    )


def _collector(found: list[tuple[Tensor, Clusters]]) -> Callable[..., None]:
    """A forward hook that notes the patch tokens of one video [T, P, D], and their clusters."""

    def note(reducer: nn.Module, inputs: tuple[Tensor, Tensor], output: Reduced) -> None:
        del reducer
        if output.clusters is not None:
            clusters = Clusters(*(ids[0].cpu() for ids in output.clusters))
            found.append((inputs[0][0, :, 1:].float().cpu(), clusters))

    return note


def follow(stages: Iterable[Clusters], patches: int) -> tuple[Tensor, Tensor]:
    """Tokens after all stages <-> patches before the first.

    Args:
        stages: of one video, in order: centers [S, K], assignment [S, N]; S*N is the S*K of the
            stage before.
        patches: T*P of the video.

    Returns:
        origin [S*K] int64: the patch that each token left is, or stands for;
        token [T*P] int64: the token that stands for each patch, -1 where none does.
    """
    origin = token = torch.arange(patches)
    for centers, assignment in stages:
        (S, K), N = centers.shape, assignment.shape[1]
        segment = torch.arange(S).unsqueeze(1)
        origin = origin[(segment * N + centers).flatten()]
        merged = torch.where(assignment < 0, -1, segment * K + assignment).flatten()  # [S*N]
        token = torch.where(token < 0, -1, merged[token])
    return origin, token


def _maps(tokens: Tensor, clusters: Clusters) -> tuple[Map, ...]:
    """Of each segment, from tokens [T, P, D]; those that no cluster has are left out."""
    maps = []
    points = tokens.reshape(len(clusters.centers), -1, tokens.shape[-1])
    for segment, centers, assignment in zip(points, *clusters, strict=True):
        has = assignment >= 0
        places, share = plane(segment[has])
        is_center = torch.zeros(len(segment), dtype=torch.bool)
        is_center[centers] = True
        maps.append(Map(places.numpy(), assignment[has].numpy(), is_center[has].numpy(), share))
    return tuple(maps)


def plane(points: Tensor) -> tuple[Tensor, float]:
    """Principal components of points: the plane they vary most in.

    Args:
        points: [N, D], N at least 1.

    Returns:
        [N, 2] float64 places, their mean at 0; the sign of each axis is such that its largest
        loading is positive. And the part of the variance that the plane has, 1.0 where there is
        none.
    """
    x = points.double()
    x = x - x.mean(dim=0)
    _, spread, axes = torch.linalg.svd(x, full_matrices=False)
    axes = axes[:2]
    largest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))
    places = x @ (axes * largest.sign()).T
    variance = spread.square()
    total = float(variance.sum())
    share = float(variance[:2].sum()) / total if total > 0 else 1.0
    return nn.functional.pad(places, (0, 2 - places.shape[1])), share
