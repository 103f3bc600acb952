"""The pickles of tensor archives, run by a small machine that can build nothing but data.

Python's own unpickler can import and call; this one knows the few instructions that torch's
writer uses and six harmless functions, and refuses everything else by name. Format: the
comments of Python's `pickletools`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pickletools import code2op
from typing import Any, NamedTuple

from ttvr.clip._layouts import shown
from ttvr.errors import TtvrError

_STOP = ord(".")


class Storage(NamedTuple):
    """A record of the archive, as the pickle refers to it: "HalfStorage", its key, its elements."""

    kind: str
    key: str
    count: int


class Record:
    """An object of a scripted class: nothing of the class but the attributes it was given."""

    def __init__(self) -> None:
        self.state: dict[Any, Any] = {}


class _Name(NamedTuple):
    """A global that the pickle names; it is never looked up."""

    path: str


Rebuild = Callable[[Storage, Any, Any, Any], Any]


def run(pickled: bytes, rebuild: Rebuild) -> Any:
    """What a pickle describes.

    Args:
        pickled: the bytes of `data.pkl`.
        rebuild: makes a tensor of (storage, offset, size, stride), which it has to check.

    Raises:
        TtvrError: it asks for anything but data, or is damaged. The message does not name the file.
    """
    try:
        return _Machine(pickled, rebuild).run()
    except (IndexError, KeyError, TypeError, ValueError, struct.error) as error:
        raise TtvrError(f"its pickle is damaged ({type(error).__name__})") from error


class _Machine:
    """A stack, marks and a memo: the state of a running pickle."""

    def __init__(self, pickled: bytes, rebuild: Rebuild) -> None:
        self._bytes, self._rebuild, self._at = pickled, rebuild, 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Execute up to STOP."""
        while True:
            code = self.take(1)[0]
            if code == _STOP:
                return self.stack.pop()
            step = _STEPS.get(code)
            if step is None:
                known = code2op.get(chr(code))
                what = known.name if known else hex(code)
                raise TtvrError(f"refused: its pickle has the instruction {what}")
            step(self)

    def take(self, count: int) -> bytes:
        """The next bytes."""
        part = self._bytes[self._at : self._at + count]
        if len(part) != count:
            raise IndexError("the pickle ends early")
        self._at += count
        return part

    def number(self, form: str) -> Any:
        """The next number, as `struct` describes it."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        """Up to the next end of line."""
        end = self._bytes.index(b"\n", self._at)
        return self.take(end - self._at + 1)[:-1].decode()

    def marked(self) -> list[Any]:
        """What lies above the last mark; mark and all are taken off."""
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def name(self) -> None:
        """GLOBAL: noted, never imported."""
        path = f"{self.line()}.{self.line()}"
        is_data = path.startswith("__torch__.") or path in _CALLS or path in _STORAGES
        if not is_data and path != _TENSOR:
            raise TtvrError(f"refused: it asks for {shown(path)}, which is code, not weights")
        self.stack.append(_Name(path))

    def call(self) -> None:
        """REDUCE: one of the harmless functions."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise TypeError("a call of what is no function")
        if function.path == _TENSOR:
            storage, offset, size, stride = arguments[:4]
            if not isinstance(storage, Storage):
                raise TypeError("a tensor without a storage")
            self.stack.append(self._rebuild(storage, offset, size, stride))
        elif function.path in _CALLS:
            self.stack.append(_CALLS[function.path](*arguments))
        else:
            raise TtvrError(f"refused: it calls {shown(function.path)}")

    def make(self) -> None:
        """NEWOBJ: an empty record of a scripted class."""
        arguments, kind = self.stack.pop(), self.stack.pop()
        if arguments != () or not isinstance(kind, _Name) or kind.path[:10] != "__torch__.":
            raise TypeError("an object that is no scripted module")
        self.stack.append(Record())

    def build(self) -> None:
        """BUILD: attributes for a record."""
        state, record = self.stack.pop(), self.stack[-1]
        if not isinstance(record, Record) or not isinstance(state, dict):
            raise TypeError("attributes for what is no scripted module")
        record.state = state

    def storage(self) -> None:
        """BINPERSID: a reference to a record of the archive."""
        tag, kind, key, _device, count = self.stack.pop()
        if tag != "storage" or not isinstance(kind, _Name) or kind.path not in _STORAGES:
            raise TypeError("a reference to what is no storage")
        if type(key) is not str or type(count) is not int:
            raise TypeError("a storage without key or size")
        self.stack.append(Storage(kind.path.removeprefix("torch."), key, count))

    def put(self, index: int) -> None:
        """Remember the top of the stack."""
        self.memo[index] = self.stack[-1]

    def set_items(self, flat: list[Any]) -> None:
        """Put keys and values, alternating, into the dictionary on top."""
        target = self.stack[-1]
        if not isinstance(target, dict) or len(flat) % 2:
            raise TypeError("items for what is no dictionary")
        # Keys of other types could take forever to hash.
        if not all(type(key) in (str, int) for key in flat[::2]):
            raise TypeError("a key that is no text")
        target.update(zip(flat[::2], flat[1::2], strict=True))

    def append(self, items: list[Any]) -> None:
        """Add to the list on top."""
        if not isinstance(self.stack[-1], list):
            raise TypeError("elements for what is no list")
        self.stack[-1].extend(items)

    def pop(self, count: int) -> list[Any]:
        """Take the last `count` values off, in the order they were put."""
        if count > len(self.stack):
            raise IndexError("the stack is empty")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items


_TENSOR = "torch._utils._rebuild_tensor_v2"
_STORAGES = frozenset(
    f"torch.{kind}Storage"
    for kind in (
        "Half",
        "Float",
        "Double",
        "BFloat16",
        "Long",
        "Int",
        "Short",
        "Char",
        "Byte",
        "Bool",
    )
)
_CALLS: dict[str, Callable[..., Any]] = {
    # None copies what it is given: a pickle could ask for that a million times.
    "collections.OrderedDict": lambda: {},
    "torch.jit._pickle.build_intlist": lambda values: values,
    "torch.jit._pickle.build_boollist": lambda values: values,
    "torch.jit._pickle.build_doublelist": lambda values: values,
    "torch.jit._pickle.build_tensorlist": lambda values: values,
    "torch.jit._pickle.restore_type_tag": lambda value, _type: value,
}
_STEPS: dict[int, Callable[[_Machine], Any]] = {
    ord(code): step
    for code, step in {
        "\x80": lambda m: m.take(1),
        "c": _Machine.name,
        "R": _Machine.call,
        "\x81": _Machine.make,
        "b": _Machine.build,
        "Q": _Machine.storage,
        "q": lambda m: m.put(m.number("<B")),
        "r": lambda m: m.put(m.number("<I")),
        "h": lambda m: m.stack.append(m.memo[m.number("<B")]),
        "j": lambda m: m.stack.append(m.memo[m.number("<I")]),
        "(": lambda m: m.marks.append(len(m.stack)),
        "}": lambda m: m.stack.append({}),
        "]": lambda m: m.stack.append([]),
        ")": lambda m: m.stack.append(()),
        "t": lambda m: m.stack.append(tuple(m.marked())),
        "\x85": lambda m: m.stack.append(tuple(m.pop(1))),
        "\x86": lambda m: m.stack.append(tuple(m.pop(2))),
        "\x87": lambda m: m.stack.append(tuple(m.pop(3))),
        "u": lambda m: m.set_items(m.marked()),
        "s": lambda m: m.set_items(m.pop(2)),
        "e": lambda m: m.append(m.marked()),
        "a": lambda m: m.append(m.pop(1)),
        "X": lambda m: m.stack.append(m.take(m.number("<I")).decode()),
        "U": lambda m: m.stack.append(m.take(m.number("<B")).decode("latin-1")),
        "T": lambda m: m.stack.append(m.take(m.number("<I")).decode("latin-1")),
        "K": lambda m: m.stack.append(m.number("<B")),
        "M": lambda m: m.stack.append(m.number("<H")),
        "J": lambda m: m.stack.append(m.number("<i")),
        "\x8a": lambda m: m.stack.append(
            int.from_bytes(m.take(m.number("<B")), "little", signed=True)
        ),
        "G": lambda m: m.stack.append(m.number(">d")),
        "N": lambda m: m.stack.append(None),
        "\x88": lambda m: m.stack.append(True),
        "\x89": lambda m: m.stack.append(False),
    }.items()
}
