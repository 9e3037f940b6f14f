"""Read a pickle as data: only plain values, containers and what the caller builds itself.

A pickle is a program for a small stack machine whose programs may import and call anything.
This machine knows the instructions that make plain values. A name is never imported: it is looked
up among those that the caller gives, and any other one ends the reading with an error that says it.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from khala.errors import CheckpointError

__all__ = ["STANDARD", "Name", "Record", "read_pickle"]

MAX_STEPS = 20_000_000
"""A checkpoint of a hundred thousand tensors has some millions."""

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": set,
}
VALUES = frozenset(
    {
        *("INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    }
)
"""Instructions whose argument is the value."""

IGNORED = frozenset({"PROTO", "FRAME"})
MARKED: dict[str, Callable[[list[Any]], Any]] = {
    "LIST": list,
    "TUPLE": tuple,
    "DICT": lambda items: dict(_pairs(items)),
    "FROZENSET": frozenset,
}
FILLING = {"APPEND": 1, "APPENDS": 0, "SETITEM": 2, "SETITEMS": 0, "ADDITEMS": 0}
"""Instructions that fill a container, and how many values they take; 0: all above the mark."""

TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
MARK = object()

Build = Callable[..., Any]
PLAIN: dict[str, Build] = {
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "__builtin__.set": set,
    "__builtin__.frozenset": frozenset,
    "_codecs.encode": lambda text, _: text.encode("latin1"),
}
"""How older pickles write sets and bytes."""

TYPES = (
    *("object", "type", "bool", "int", "long", "float", "complex", "str", "unicode", "bytes"),
    *("bytearray", "dict", "list", "tuple", "slice", "range", "xrange"),
)
STANDARD = (
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in TYPES),
    *("argparse.Namespace", "types.SimpleNamespace", "typing.", "enum.", "pathlib.", "datetime."),
    *("uuid.UUID", "signal.", "collections.deque", "collections.Counter"),
    *("functools.partial",),
)
"""Classes of Python's own that programs keep beside weights; the second name of a built-in type is
that of pickles up to protocol 2, which torch writes."""


@dataclass(frozen=True, slots=True)
class Name:
    """What the pickle calls a class or a function; nothing was imported."""

    text: str


@dataclass(slots=True, eq=False)
class Record:
    """An object of a class that the caller allowed to be kept as plain values."""

    name: str
    """Module and class."""

    arguments: tuple[Any, ...]
    """Given when it was made."""

    state: Any = None
    """Given afterwards: a dictionary of attributes, as a rule."""

    items: list[Any] = field(default_factory=list)
    """What was put into it: values, or keys and values in turn."""


def _member(owner: Any, member: Any) -> Record:
    """Return a member of an enumeration by its name, as Python 3.11.0 to 3.11.3 write it."""
    return Record(f"{_a(Name, owner).text}.{_a(str, member)}", ())


MEMBERS: dict[str, Build] = {f"{module}.getattr": _member for module in ("builtins", "__builtin__")}


def read_pickle(
    data: bytes,
    *,
    builders: Mapping[str, Build],
    records: Iterable[str] = (),
    load_persistent: Callable[[Any], Any] | None = None,
    what: str = "the pickle",
) -> Any:
    """Return what a pickle describes.

    Args:
        data: the pickle's bytes.
        builders: functions of ours by the name that the pickle may call, as in
            "collections.OrderedDict".
        records: names, or beginnings of names that end with a dot, of classes that are kept as
            `Record`.
        load_persistent: makes what a persistent id stands for.
        what: names the file, for errors.

    Raises:
        CheckpointError: it names something else, or it is no whole pickle.
    """
    machine = _Machine(builders, tuple(records), load_persistent, what)
    try:
        return machine.run(data)
    except CheckpointError:
        raise
    # of a damaged pickle the stack may hold anything, so anything may fail
    except Exception as error:
        raise CheckpointError(f"{what} is no pickle, or a damaged one: {error}") from error


class _Machine:
    """Stack and memory of one reading."""

    def __init__(
        self,
        builders: Mapping[str, Build],
        records: tuple[str, ...],
        load_persistent: Callable[[Any], Any] | None,
        what: str,
    ) -> None:
        self._builders, self._records = {**PLAIN, **MEMBERS, **builders}, records
        self._load_persistent, self._what = load_persistent, what
        self._stack: list[Any] = []
        self._memory: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for step, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if step >= MAX_STEPS:
                raise CheckpointError(f"{self._what} has over {MAX_STEPS} instructions")
            if opcode.name == "STOP":
                (value,) = self._stack
                return value
            self._step(opcode.name, argument)
        raise CheckpointError(f"{self._what} ends too soon")

    def _step(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in VALUES:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in EMPTY:
            stack.append(EMPTY[name]())
        elif name in TUPLES:
            count = TUPLES[name]
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "MARK":
            stack.append(MARK)
        elif name in MARKED:
            items = self._to_mark()
            stack.append(MARKED[name](items))
        elif name == "POP_MARK":
            self._to_mark()
        elif name == "POP":
            stack.pop()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memory[int(argument)])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memory[int(argument)] = stack[-1]
        elif name == "MEMOIZE":
            self._memory[len(self._memory)] = stack[-1]
        elif name not in IGNORED:
            self._change(name, argument)

    def _change(self, name: str, argument: Any) -> None:
        """Fill a container, or make an object: what is refused is refused here."""
        stack = self._stack
        if name in FILLING:
            count = FILLING[name]
            items = stack[-count:] if count else self._to_mark()
            del stack[len(stack) - count :]
            _fill(stack[-1], items, name)
        elif name == "GLOBAL":
            stack.append(self._known(str(argument).replace(" ", ".", 1)))
        elif name == "STACK_GLOBAL":
            last, module = stack.pop(), stack.pop()
            stack.append(self._known(f"{_a(str, module)}.{_a(str, last)}"))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments = stack.pop()
            stack[-1] = self._made(stack[-1], _a(tuple, arguments))
        elif name == "BUILD":
            self._build(stack.pop())
        elif name == "BINPERSID" and self._load_persistent is not None:
            stack[-1] = self._load_persistent(stack[-1])
        else:
            raise CheckpointError(f"{self._what} uses the instruction {name}, which is not read")

    def _known(self, text: str) -> Name:
        if text in self._builders or _is_record(text, self._records):
            return Name(text)
        raise CheckpointError(f"{self._what} names {text}, which is not allowed: nothing was run")

    def _made(self, name: Any, arguments: tuple[Any, ...]) -> Any:
        text = _a(Name, name).text
        if text in self._builders:
            return self._builders[text](*arguments)
        return Record(text, arguments)

    def _build(self, state: Any) -> None:
        """Give an object its attributes; those of dictionaries (hooks of modules) are dropped."""
        target = self._stack[-1]
        if isinstance(target, Record):
            target.state = state
        elif not isinstance(target, dict):
            kind = type(target).__name__
            raise CheckpointError(f"{self._what} gives attributes to a {kind}")

    def _to_mark(self) -> list[Any]:
        """Take everything above the last mark, and the mark."""
        at = len(self._stack) - 1
        while self._stack[at] is not MARK:
            at -= 1
            if at < 0:
                raise CheckpointError(f"{self._what} is damaged: a mark is missing")
        items = self._stack[at + 1 :]
        del self._stack[at:]
        return items


def _is_record(text: str, records: tuple[str, ...]) -> bool:
    return any(text == one or (one.endswith(".") and text.startswith(one)) for one in records)


def _fill(target: Any, items: list[Any], name: str) -> None:
    """Put items into a container, or beside an object that is kept as plain values."""
    if isinstance(target, Record):
        target.items.extend(items)
    elif name.startswith("APPEND"):
        _a(list, target).extend(items)
    elif name.startswith("SETITEM"):
        _a(dict, target).update(_pairs(items))
    else:
        _a(set, target).update(items)


def _pairs(items: list[Any]) -> list[tuple[Any, Any]]:
    return list(zip(items[::2], items[1::2], strict=True))


def _a(kind: type, value: Any) -> Any:
    """Return a value that must be of a kind."""
    if not isinstance(value, kind):
        raise CheckpointError(f"damaged: a {type(value).__name__} where a {kind.__name__} belongs")
    return value
