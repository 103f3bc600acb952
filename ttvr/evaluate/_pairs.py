"""Ground truth: which caption describes which video, and which of them have features."""

from __future__ import annotations

import hashlib
import sys
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from ttvr import datasets
from ttvr.errors import IncompatibleError, TtvrError, not_utf8
from ttvr.records import Split, Twin
from ttvr.store import Features, attempts
from ttvr.wording import counted, first_of

_GT = "gt.tsv"


class Pairs(NamedTuple):
    """Which caption describes which video: entry i of both belongs together.

    Attributes:
        name: of the file, or of a dataset's split.
        captions: sentences; the same one may describe several videos.
        videos: ids of videos; most have several captions or one.
        twins: of a video, the one that differs from it in a single respect.
        is_file: whether the name is that of a file.
    """

    name: str
    captions: tuple[str, ...]
    videos: tuple[str, ...]
    twins: Mapping[str, Twin] = MappingProxyType({})
    is_file: bool = True

    @classmethod
    def of(cls, split: Split, twins: Mapping[str, Twin] = MappingProxyType({})) -> Pairs:
        """The pairs of a dataset's split, ids as feature folders have them (NFC)."""
        videos = tuple(unicodedata.normalize("NFC", split.clips[at].id) for at in split.owner)
        return cls(split.name, tuple(split.captions), videos, twins, is_file=False)

    @property
    def split(self) -> str:
        """What reports call it: `synthetic/test`, and of a file the name without its folder."""
        return Path(self.name).name if self.is_file else self.name

    @property
    def sha256(self) -> str:
        """64 hex digits over the lines `caption<TAB>video id`, each ended by a line feed.

        Of a file that is written so it is the hash of the file; a text folder's own numbering,
        a byte order mark or another line end does not make it another split.
        """
        both = zip(self.captions, self.videos, strict=True)
        lines = (f"{caption}\t{video}\n" for caption, video in both)
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_pairs(path: str) -> Pairs:
    """Read ground truth: lines of `caption<TAB>video id`, UTF-8.

    A line that comes twice is two queries, as in the published annotations: two people may say
    the same of a video.

    Args:
        path: of the file; "-" is stdin.

    Raises:
        OSError: the file cannot be read.
        TtvrError: a line that is not of this form, or an empty part; names it.
    """
    content = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    name = "stdin" if path == "-" else path
    captions, videos = [], []
    for number, line in enumerate(_lines(content, name), start=1):
        where = f"{name}:{number}"
        parts = line.split("\t")
        if len(parts) != 2:
            raise TtvrError(f"{where}: expected `caption<TAB>video id`, found {quoted(line)}")
        caption, video = parts[0].strip(), unicodedata.normalize("NFC", parts[1].strip())
        if not caption or not video:
            raise TtvrError(f"{where}: the {'video id' if caption else 'caption'} is empty")
        captions.append(caption)
        videos.append(video)
    if not captions:
        raise TtvrError(f"{name}: no captions; expected lines of `caption<TAB>video id`")
    return Pairs(name, tuple(captions), tuple(videos))


def stored_pairs(texts: Features) -> Pairs:
    """The ground truth that a text folder carries, `gt.tsv`.

    Raises:
        IncompatibleError: it is no text folder.
        TtvrError: it carries none, or a damaged one.
    """
    require_kind(texts, "text")
    if not texts.gt:
        raise TtvrError(f"{texts.path} has no {_GT}: pass --gt pairs.tsv (`caption<TAB>video id`)")
    path = texts.path / _GT
    captions = tuple(texts.texts[row] for row, _ in texts.gt)
    videos = tuple(unicodedata.normalize("NFC", video) for _, video in texts.gt)
    return Pairs(str(path), captions, videos)


def dataset_pairs(dataset: str, split: str, *, root: Path | None = None) -> Pairs:
    """The ground truth of a dataset's split.

    Args:
        dataset: as `datasets.load` takes it.
        split: one of its splits.
        root: the folder the dataset lies in, where it needs one.

    Raises:
        UsageError: no such dataset or split, or no root where one is needed.
        TtvrError: files of the dataset are missing or damaged.
    """
    source = datasets.load(dataset)
    found = source.load(root, split)
    return Pairs.of(found, {clip.id: twin for clip in found.clips if (twin := source.twin(clip))})


def require_kind(features: Features, kind: str) -> None:
    """Refuse a folder of videos where texts are due, and one of texts where videos are.

    Raises:
        IncompatibleError: it is the other one.
    """
    if features.kind != kind:
        raise IncompatibleError(
            f"{features.path} holds {features.kind}s, expected {kind}s: the first folder is that "
            "of videos, --text-features that of texts (`ttvr-extract --text`)"
        )


def absent_videos(features: Features, pairs: Pairs, rows: dict[str, int]) -> dict[str, str]:
    """Videos of the ground truth without features, in its order, each with the reason."""
    wanted = [video for video in dict.fromkeys(pairs.videos) if video not in rows]
    if not wanted:
        return {}
    reasons = {
        item["id"]: f"failed: {item['error']} ({item['detail']})"
        for item in attempts(features.path)
        if item["status"] == "failed"
    }
    return {video: reasons.get(video, "not in the folder") for video in wanted}


def refusal(
    features: Features, pairs: Pairs, absent: dict[str, str], *, may_miss: bool = True
) -> str:
    """What to say where videos are absent and nobody said what to do about it.

    Args:
        features: a video folder.
        pairs: the ground truth.
        absent: of `absent_videos`.
        may_miss: their captions may be counted as not found.
    """
    miss = " or --missing miss (count them as not found)" if may_miss else ""
    example = f"; ids there look like {features.ids[0]!r}" if features.ids else ""
    return (
        f"{absence(features, pairs, absent)}{example}. Extract them, or pass --missing skip (leave "
        f"their captions out){miss}"
    )


def absence(features: Features, pairs: Pairs, absent: Mapping[str, str]) -> str:
    """How many videos have no features, and the first of them; arguments as of `refusal`."""
    return (
        f"{len(absent)} of {counted(len(set(pairs.videos)), 'video')} of {pairs.name} have no "
        f"features in {features.path}: "
        f"{first_of([f'{video} ({reason})' for video, reason in absent.items()])}"
    )


def quoted(line: str) -> str:
    """A line of a file, short enough for a message."""
    return repr(line if len(line) <= 60 else line[:57] + "...") if line else "an empty line"


def _lines(content: bytes, name: str) -> list[str]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise not_utf8(f"{name}:{line}", content) from error
    # Not splitlines: a caption may hold U+2028 and its like.
    return [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")] if text else []
