"""Pickles of captions, run so that they can build nothing but texts in lists and dictionaries.

Python's unpickler in Python, for its memo is a dictionary (an index of four thousand millions
costs nothing) and its instructions are a table, of which the harmless ones are kept.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

from ttvr.errors import IncompatibleError


def loads(content: bytes, where: str) -> Any:
    """What a pickle of dictionaries, lists, tuples and texts holds; of Python 2 or 3.

    Args:
        content: of the file.
        where: its name, for errors.

    Raises:
        IncompatibleError: it asks for anything else, which is named, or it is damaged.
    """
    try:
        return _Unpickler(io.BytesIO(content), encoding="utf-8").load()
    except _Refused as error:
        raise IncompatibleError(
            f"{where}: refused: it asks for {error}, which is no part of captions; do not trust "
            "where it comes from"
        ) from None
    except Exception as error:  # of a damaged pickle any
        raise IncompatibleError(f"{where}: damaged pickle ({error}); get it again") from error


class _Refused(Exception):
    """What the pickle asks for."""


def _allowed(kind: type, *sources: type) -> Callable[..., Any]:
    """A kind, called with nothing or with one value of these types."""

    def make(*values: Any) -> Any:
        if len(values) > 1 or not all(type(value) in sources for value in values):
            raise _Refused(f"{kind.__name__}() of something else")
        return kind(*values)

    return make


def _ordered(*values: Any) -> dict[str, Any]:
    pairs = values[0] if values else []
    if len(values) > 1 or type(pairs) is not list:
        raise _Refused("an OrderedDict of no list")
    made: dict[str, Any] = {}
    _put(made, [part for pair in pairs for part in pair])
    return made


def _encoded(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1", "utf-8") or type(text) is not str:
        raise _Refused(f"the encoding {encoding!r}")
    return text.encode(encoding)


def _put(target: Any, flat: list[Any]) -> None:
    # A key of nested tuples could take a stack's depth to hash.
    if type(target) is not dict or not all(type(key) in (str, bytes) for key in flat[::2]):
        raise _Refused("a key that is no text")
    target.update(zip(flat[::2], flat[1::2], strict=True))


_NAMES: dict[tuple[str, str], Callable[..., Any]] = {
    **{
        (module, name): make
        for module in ("builtins", "__builtin__")
        for name, make in (
            ("list", _allowed(list, list, tuple)),
            ("tuple", _allowed(tuple, list, tuple)),
            ("str", _allowed(str, str)),
            ("unicode", _allowed(str, str)),
            ("dict", _allowed(dict)),
        )
    },
    ("collections", "OrderedDict"): _ordered,
    ("collections", "defaultdict"): lambda *_kind: {},
    ("_codecs", "encode"): _encoded,
}
# fmt: off
_KEPT = (
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "NONE", "EMPTY_DICT", "DICT",
    "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
    "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "PUT", "BINPUT", "LONG_BINPUT",
    "MEMOIZE", "GET", "BINGET", "LONG_BINGET", "GLOBAL", "STACK_GLOBAL", "REDUCE",
)
# fmt: on


class _Table(dict[int, Callable[..., None]]):
    """Steps by instruction; another one is refused by name."""

    def __missing__(self, code: int) -> Callable[..., None]:
        raise _Refused(f"the instruction {code:#04x}")


class _Unpickler(pickle._Unpickler):
    """Python's own, with a part of its instructions, and functions of ours for those it calls."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        """Ours in place of what the pickle names, which is never imported."""
        found = _NAMES.get((module, name))
        if found is None:
            raise _Refused(f"{module}.{name}")
        return found

    def load_setitem(self) -> None:
        """SETITEM, with texts for keys."""
        value, key = self.stack.pop(), self.stack.pop()
        _put(self.stack[-1], [key, value])

    def load_setitems(self) -> None:
        """SETITEMS, with texts for keys."""
        flat = self.pop_mark()
        _put(self.stack[-1], flat)

    def load_dict(self) -> None:
        """DICT, with texts for keys."""
        flat, made = self.pop_mark(), {}
        _put(made, flat)
        self.append(made)

    dispatch: ClassVar[dict[int, Callable[..., None]]] = _Table(
        {
            **{
                code: pickle._Unpickler.dispatch[code]
                for code in (getattr(pickle, name)[0] for name in _KEPT)
            },
            pickle.SETITEM[0]: load_setitem,
            pickle.SETITEMS[0]: load_setitems,
            pickle.DICT[0]: load_dict,
        }
    )
