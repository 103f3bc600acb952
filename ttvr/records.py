"""What flows between the stages: immutable records, no behavior."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor


class Clip(NamedTuple):
    """A video, or the part of it between two times.

    Attributes:
        id: unique within its split or feature folder.
        path: the file or image folder.
        start: seconds from the first frame.
        end: seconds from the first frame; None is the end of the video.
    """

    id: str
    path: Path
    start: float = 0.0
    end: float | None = None


class Twin(NamedTuple):
    """A clip that differs from another one in a single respect, such as the order of its frames.

    Attributes:
        id: of that clip.
        kind: what the two differ in, for reports: a kind of event.
    """

    id: str
    kind: str


class Split(NamedTuple):
    """Videos and the sentences that describe them: `captions[i]` belongs to `clips[owner[i]]`.

    The sequences never change; a dataset may make their items when they are asked for.

    Attributes:
        name: of the dataset with its variant and the split, as in "msrvtt:9k/test".
        clips: videos, ids unique.
        captions: sentences; of each clip at least one.
        owner: of each caption the index of its clip.
        root: the folder below which `datasets.coverage` finds the videos by the names of the
            clips' paths; None where the paths are those of the files themselves.
        counts: "ok" where the numbers are those that were published, or follow from how the
            clips are made; "unchecked" where there are none to compare with.
    """

    name: str
    clips: Sequence[Clip]
    captions: Sequence[str]
    owner: Sequence[int]
    root: Path | None = None
    counts: str = "unchecked"


class Batch(NamedTuple):
    """What the encoders take.

    Attributes:
        ids: [B, L] int64 tokens, zero padded.
        frames: [B, T, H, W, 3] uint8 RGB as they were read: a quarter of what they are once
            normalized, which the model does on its device. Padded frames are all zero.
        mask: [B, T] bool, True where a frame is real.
        owner: [B] int64, which clip of the split each row is.
    """

    ids: Tensor
    frames: Tensor
    mask: Tensor
    owner: Tensor


class TextFeatures(NamedTuple):
    """Encoded texts, projected, not normalized.

    Attributes:
        sentence: [B, D], the feature at the end-of-text token.
        words: [B, L, D], the feature at every position.
        mask: [B, L] bool, True from start-of-text to end-of-text inclusive.
    """

    sentence: Tensor
    words: Tensor
    mask: Tensor


class VideoFeatures(NamedTuple):
    """Encoded videos, projected, not normalized.

    Attributes:
        frames: [B, T, D], the class token of each frame (or of each segment, after reduction).
        mask: [B, T] bool, True where a frame is real.
        patches: [B, T, P, D] patch tokens, or None where they were not asked for.
    """

    frames: Tensor
    mask: Tensor
    patches: Tensor | None


class EncodedBatch(NamedTuple):
    """What a head alone is trained on: a batch that has been through the encoders.

    Attributes:
        ids: [B, L] int64 tokens of the captions, zero padded.
        text: of the captions, float32.
        video: of their videos, float32.
        owner: [B] int64, which clip of the split each row is.
    """

    ids: Tensor
    text: TextFeatures
    video: VideoFeatures
    owner: Tensor

    @property
    def frames(self) -> Tensor:
        """[B, T, D] features in place of pixels."""
        return self.video.frames
