"""Files of sentences: the queries of ttvr-rank, the captions of ttvr-extract."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

from ttvr.errors import TtvrError, not_utf8


class Query(NamedTuple):
    """A sentence, and its name where it has one."""

    id: str | None
    text: str


def read_queries(path: str, *, what: str = "queries") -> list[Query]:
    """The sentences of a file: one per line, optionally `id<TAB>text`; blank lines are none.

    Args:
        path: of the file; "-" is stdin.
        what: what errors call the sentences.

    Raises:
        OSError: the file cannot be read.
        TtvrError: no sentence, a name without a text, or a line that is not UTF-8; names the line.
    """
    content = sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    name = "stdin" if path == "-" else path
    queries = []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise not_utf8(f"{name}:{number}", content) from error
        if not text.strip():
            continue
        before, tab, after = text.partition("\t")
        query = Query(before.strip() or None, after.strip()) if tab else Query(None, text.strip())
        if not query.text:
            raise TtvrError(f"{name}:{number}: no text after the id {query.id!r}")
        queries.append(query)
    if not queries:
        raise TtvrError(f"{name}: no {what}; expected one per line")
    return queries
