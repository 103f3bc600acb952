"""Videos -> feature folder: decode, encode, write, in the order of the inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ttvr import store
from ttvr.extract._decode import Decoded, ordered
from ttvr.extract._encode import Encoder
from ttvr.extract._inputs import Input
from ttvr.extract._options import Options, settings
from ttvr.retriever import Retriever
from ttvr.store import Outcome, Writer

OnStep = Callable[[Outcome | None, int], None]


class Problem(NamedTuple):
    """An input that failed or is partial: where it is, which of the two, why."""

    path: str
    status: str
    reason: str


class Summary(NamedTuple):
    """What a run left in the folder.

    Attributes:
        meta: the content of `meta.json`.
        problems: inputs that failed or are partial, in order.
    """

    meta: dict[str, Any]
    problems: list[Problem]


def run(
    inputs: Sequence[Input],
    folder: Path,
    *,
    retriever: Retriever,
    options: Options,
    provenance: Mapping[str, Any],
    resume: bool = True,
    overwrite: bool = False,
    retry_failed: bool = False,
    on_step: OnStep = lambda outcome, skipped: None,
) -> Summary:
    """Fill a feature folder, or go on with it; the bytes do not depend on jobs or interruptions.

    Args:
        inputs: from `find_inputs`.
        folder: the output.
        retriever: encodes and scores, in evaluation mode.
        options: see `Options`.
        provenance: goes into `meta.json`.
        resume: go on with what is there.
        overwrite: remove what is there.
        retry_failed: try inputs again that failed.
        on_step: called with each outcome and 0, or once with None and the number of inputs that
            were done before.

    Raises:
        TtvrError: of the store; or the model gives NaN for a video, which is named.
        RequirementError: there is no ffmpeg.
    """
    made = Writer(
        folder,
        [item.source for item in inputs],
        settings=settings(retriever, options, provenance),
        pad=retriever.pad_frame().cpu().numpy(),
        resume=resume,
        overwrite=overwrite,
        retry_failed=retry_failed,
    )
    meta = made.finished()
    if meta is not None:
        on_step(None, len(inputs))
        return Summary(meta, _problems(folder))
    with made as writer:
        _fill(writer, inputs, Encoder(retriever, options), options, on_step)
        meta = writer.finish()
    return Summary(meta, _problems(folder))


def _fill(
    writer: Writer, inputs: Sequence[Input], encoder: Encoder, options: Options, on_step: OnStep
) -> None:
    if writer.done:
        on_step(None, writer.done)
    decoded = ordered(
        inputs[writer.done :],
        options.decoding(encoder.image_size),
        jobs=options.jobs,
        kept=lambda item: writer.kept(item.source),
    )
    with contextlib.closing(decoded):  # whatever happens, the decoders end with it
        for outcome in _encoded(decoded, encoder):
            writer.add(outcome)
            on_step(outcome, 0)


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


def _problems(folder: Path) -> list[Problem]:
    found = []
    for item in store.attempts(folder):
        if item["status"] == "failed":
            found.append(Problem(item["file"], "failed", f"{item['error']}: {item['detail']}"))
        elif item["status"] == "partial":
            found.append(Problem(item["file"], "partial", _shortfall(item)))
    return found


def _shortfall(item: Mapping[str, Any]) -> str:
    errors = item.get("decoder_errors")
    parts = [f"{errors} decoder errors"] if errors else []
    if item.get("expected_s") is not None and item.get("decoded_s") is not None:
        parts.append(f"{item['decoded_s']} of {item['expected_s']} s decoded")
    return ", ".join(parts)
