"""What writers of every kind of feature folder share: the claim to it, and letting go of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from ttvr.store import _claim
from ttvr.store._files import COMPLETE, META, PARTIAL, read_meta
from ttvr.store._shards import Shards

Made = TypeVar("Made", bound="ClaimedFolder")


class ClaimedFolder(AbstractContextManager):
    """A feature folder that one process may write, within `with`.

    Args:
        folder: made where there is none.
        arrays: names of the arrays of a row.
        shared: the part of `meta.json` that has to agree with what is there.
        shard_rows: rows of every shard but the last.
        resume: use what is there; else a folder that holds features is refused.
        overwrite: remove what is there.
    """

    def __init__(
        self,
        folder: Path,
        arrays: Sequence[str],
        *,
        shared: Mapping[str, Any],
        shard_rows: int,
        resume: bool,
        overwrite: bool,
    ) -> None:
        self._folder, self._shared = folder, shared
        self._resume, self._overwrite = resume, overwrite
        self._shards = Shards(folder, arrays, shard_rows=shard_rows)

    def __enter__(self: Made) -> Made:
        """Take the folder, and what is in it.

        Raises:
            UsageError: it holds other things, or features and `resume` is off.
            IncompatibleError: what is there was made with other settings; the differing keys.
            TtvrError: another process writes it, or a file of it is damaged.
        """
        _claim.check_usable(
            self._folder, self._shared, resume=self._resume, overwrite=self._overwrite
        )
        self._lock = _claim.Lock(self._folder)
        try:
            _claim.recover(self._folder)
            if self._overwrite:
                _claim.discard(self._folder)
            _claim.refuse_mixture(self._folder, self._shared)
            self._take_over()
        except BaseException:
            try:
                _claim.leave_unused(self._folder)
            finally:
                self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go of the folder; what is not finished can be resumed."""
        self._close()

    def finished(self) -> dict[str, Any] | None:
        """The `meta.json` of a folder that holds all that is to be written; else None.

        Changes nothing, so it works on a folder that may not be written.

        Raises:
            TtvrError: an array is missing or cut short.
        """
        folder = self._folder
        if self._overwrite or not self._resume:
            return None
        if not (folder / META).is_file() or (folder / PARTIAL).exists():
            return None
        meta = read_meta(folder)
        if meta["state"] != COMPLETE or _claim.differences(meta, self._shared):
            return None
        self._shards.check(meta["count"])
        return meta if self._holds_all(meta) else None

    def _take_over(self) -> None:
        """Go on behind what is there."""
        raise NotImplementedError

    def _holds_all(self, meta: Mapping[str, Any]) -> bool:
        """Whether a complete folder of the same settings needs nothing more."""
        raise NotImplementedError

    def _close(self) -> None:
        self._shards.close()
        self._lock.release()
