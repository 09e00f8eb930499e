"""What an object is made of, generators too, as one value that can be compared and hashed.

Two with the same fingerprint can only go on equally. Identity counts: what is met twice is told
from what is only equal. What holds no state (functions, classes) is told by its name.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from functools import partial
from types import BuiltinMethodType, FunctionType, GeneratorType, MethodType
from typing import Any

from microlock.core import keys, lease, place, port, queue

_ATOMS = {type(None), bool, int, float, str, bytes}
# Frozen through and through, and compared by value.
_VALUES = {each.__name__ for each in (keys, lease, place, port, queue)} - {queue.__name__}
_VALUES_TOO = {queue.Holder, queue.Change}


def fingerprint(thing: Any, *, within: object) -> Any:
    """`within`: what is told by its identity alone."""
    return _Walk(within).of(thing)


class _Walk:
    def __init__(self, within: object) -> None:
        self._met = {id(within): 0}

    def of(self, thing: Any) -> Any:
        kind = type(thing)
        if kind in _ATOMS:
            return thing
        if (walk := _WALKS.get(kind)) is not None:
            return walk(self, thing)
        if kind.__module__ in _VALUES or kind in _VALUES_TOO or isinstance(thing, enum.Enum):
            return thing
        if isinstance(thing, type):
            return thing.__qualname__
        if isinstance(thing, BaseException):
            return kind.__name__, self._locals(thing.__dict__)
        return self._object(thing)

    def _object(self, thing: Any) -> Any:
        number = self._met.get(id(thing))
        if number is not None:
            return number
        self._met[id(thing)] = len(self._met)
        kind = type(thing)
        fields = getattr(thing, "__dict__", None)
        if fields is not None:  # of the same names in the same order in all of a kind
            return kind.__name__, self._sequence(fields.values())
        # Of an iterator nothing: where a loop is, its variable tells.
        names = getattr(kind, "__slots__", ())
        return kind.__name__, self._sequence(getattr(thing, name) for name in names)

    def _sequence(self, things: Iterable[Any]) -> Any:
        return tuple([each if type(each) in _ATOMS else self.of(each) for each in things])

    def _dict(self, thing: dict[Any, Any]) -> Any:
        # A key that is the id() of its value says nothing.
        names = tuple([None if key == id(value) else key for key, value in thing.items()])
        return names, self._sequence(thing.values())

    def _set(self, thing: Any) -> Any:
        return frozenset(self._sequence(thing))

    def _locals(self, thing: dict[str, Any]) -> Any:
        return tuple(thing), self._sequence(thing.values())

    def _generator(self, thing: Any) -> Any:
        frame = thing.gi_frame
        if frame is None:
            return thing.__qualname__
        inner = thing.gi_yieldfrom
        within = inner and self.of(inner)
        return thing.__qualname__, frame.f_lasti, self._locals(frame.f_locals), within

    def _method(self, thing: Any) -> Any:
        return thing.__name__, self.of(thing.__self__)

    def _function(self, thing: Any) -> Any:
        closure = thing.__closure__
        if closure is None:
            return thing.__qualname__
        return thing.__qualname__, self._sequence(cell.cell_contents for cell in closure)

    def _partial(self, thing: Any) -> Any:
        return self.of(thing.func), self._sequence(thing.args), self._locals(thing.keywords)


_WALKS: dict[type, Callable[[_Walk, Any], Any]] = {
    dict: _Walk._dict,
    list: _Walk._sequence,
    tuple: _Walk._sequence,
    set: _Walk._set,
    frozenset: _Walk._set,
    GeneratorType: _Walk._generator,
    MethodType: _Walk._method,
    BuiltinMethodType: _Walk._method,
    FunctionType: _Walk._function,
    partial: _Walk._partial,
}
