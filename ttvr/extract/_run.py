"""Videos -> feature folder: decode, encode, write, in the order of the inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ttvr import store
from ttvr.extract._decode import Decoded, Decoding, ordered
from ttvr.extract._encode import Encoder
from ttvr.extract._inputs import Input, Read, read_file
from ttvr.extract._options import Options, settings
from ttvr.retriever import Retriever
from ttvr.store import Outcome, Writer
from ttvr.wording import counted

OnStep = Callable[[str, bool], None]


class Problem(NamedTuple):
    """An input that failed or is partial: where it is, which of the two, why.

    Attributes:
        path: of the file or image folder, absolute.
        status: failed or partial.
        reason: in a few words.
        kept: an earlier run found it out, this one did not try.
    """

    path: str
    status: str
    reason: str
    kept: bool


class Summary(NamedTuple):
    """What a run left in the folder.

    Attributes:
        meta: the content of `meta.json`.
        problems: inputs that failed or are partial, in order.
        kept: inputs that earlier runs had done, failed ones among them.
    """

    meta: dict[str, Any]
    problems: list[Problem]
    kept: int


def run(
    inputs: Sequence[Input],
    folder: Path,
    *,
    retriever: Retriever,
    options: Options,
    provenance: Mapping[str, Any],
    read: Read = read_file,
    data: Mapping[str, str] | None = None,
    resume: bool = True,
    overwrite: bool = False,
    retry_failed: bool = False,
    on_step: OnStep = lambda status, kept: None,
) -> Summary:
    """Fill a feature folder, or go on with it; the bytes do not depend on jobs or interruptions.

    Args:
        inputs: of `Inputs.items`.
        folder: the output.
        retriever: encodes and scores, in evaluation mode.
        options: see `Options`.
        provenance: goes into `meta.json`.
        read: as `Inputs.read`.
        data: as `Inputs.data`.
        resume: go on with what is there.
        overwrite: remove what is there.
        retry_failed: try inputs again that failed.
        on_step: called for each input with its status and whether an earlier run had done it.

    Raises:
        TtvrError: of the store; or the model gives NaN for a video, which is named.
        RequirementError: there is no ffmpeg.
    """
    made = Writer(
        folder,
        [item.source for item in inputs],
        settings=settings(retriever, options, provenance, data),
        pad=retriever.pad_frame(options.frames).cpu().numpy(),
        resume=resume,
        overwrite=overwrite,
        retry_failed=retry_failed,
    )
    meta = made.finished()
    if meta is not None:
        tell_done(meta["counts"], on_step)
        kept = {item.clip.id for item in inputs}
    else:
        with made as writer:
            tell_done(writer.counts, on_step)
            encoder = Encoder(retriever, options)
            how = options.decoding(encoder.image_size, read)
            kept = _fill(writer, inputs, encoder, how, options.jobs, on_step)
            meta = writer.finish()
    return Summary(meta, problems(folder, kept), len(kept))


def tell_done(counts: Mapping[str, int], on_step: OnStep) -> None:
    """Tell the inputs that an earlier run had done, by status."""
    for status, count in counts.items():
        for _ in range(count):
            on_step(status, True)


def _fill(
    writer: Writer,
    inputs: Sequence[Input],
    encoder: Encoder,
    how: Decoding,
    jobs: int,
    on_step: OnStep,
) -> set[str]:
    """Do what is not done; returns the ids of what earlier runs had done."""
    kept = {item.clip.id for item in inputs[: writer.done]}
    left = inputs[writer.done :]

    def reuse(item: Input) -> Outcome | None:
        outcome = writer.kept(item.source)
        if outcome is not None:
            kept.add(item.clip.id)
        return outcome

    decoded = ordered(left, how, jobs=jobs, kept=reuse)
    with contextlib.closing(decoded):  # whatever happens, the decoders end with it
        for item, outcome in zip(left, _encoded(decoded, encoder), strict=True):
            writer.add(outcome)
            on_step(outcome.facts["status"], item.clip.id in kept)
    return kept


def _encoded(
    results: Iterator[tuple[Input, Decoded | Outcome]], encoder: Encoder
) -> Iterator[Outcome]:
    """Outcomes in order; videos wait for one another until they fill a forward pass."""
    waiting: list[tuple[Input, Decoded | Outcome]] = []
    count = 0
    for item, result in results:
        waiting.append((item, result))
        count += isinstance(result, Decoded)
        if count == encoder.videos_per_pass or not count:
            yield from _flush(waiting, encoder)
            waiting, count = [], 0
    yield from _flush(waiting, encoder)


def _flush(
    waiting: Sequence[tuple[Input, Decoded | Outcome]], encoder: Encoder
) -> Iterator[Outcome]:
    videos = [(item, result) for item, result in waiting if isinstance(result, Decoded)]
    rows = iter(())
    if videos:
        names = [str(item.clip.path) for item, _ in videos]
        rows = iter(encoder.rows([result for _, result in videos], names))
    for _, result in waiting:
        yield Outcome(result.facts, next(rows)) if isinstance(result, Decoded) else result


def problems(folder: Path, kept: Collection[str]) -> list[Problem]:
    """The inputs of a folder that failed or are partial; `kept` are ids of earlier runs."""
    found = []
    for item in store.attempts(folder):
        status = item["status"]
        if status != "ok":
            reason = (
                _shortfall(item) if status == "partial" else f"{item['error']}: {item['detail']}"
            )
            found.append(Problem(item["file"], status, reason, item["id"] in kept))
    return found


def _shortfall(item: Mapping[str, Any]) -> str:
    errors = item.get("decoder_errors")
    parts = [counted(errors, "decoder error")] if errors else []
    if item.get("expected_s") is not None and item.get("decoded_s") is not None:
        parts.append(f"{item['decoded_s']} of {item['expected_s']} s decoded")
    return ", ".join(parts)
