"""``record``: what ``dataclass(frozen=True, slots=True)`` makes of a class of values, in a tenth of the time.

``dataclass`` compiles six functions for each class. A program with sixty of them spends more time on that
than on anything else before it is ready. Here only ``__init__`` is compiled. The other functions are the same
for all classes. ``dataclasses.fields``, ``asdict`` and ``replace`` work, and so do patterns, ``copy`` and
``pickle``. There are no default factories, and no fields are inherited.
"""

from __future__ import annotations

import dataclasses
from dataclasses import MISSING, Field, FrozenInstanceError, field
from typing import Any, TypeVar, dataclass_transform

__all__ = ["record"]

T = TypeVar("T")

_PARAMETERS: Any = None


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """Makes the class a frozen dataclass with slots."""
    namespace = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
    fields = _fields(namespace)
    namespace |= _METHODS | {name: namespace[name] for name in _METHODS if name in vars(cls)}
    namespace["__slots__"] = names = tuple(fields)
    namespace["__match_args__"] = names
    namespace["__dataclass_fields__"] = fields
    namespace["__dataclass_params__"] = _parameters()
    make: Any = type(cls)
    made: Any = make(cls.__name__, cls.__bases__, namespace)
    made.__qualname__ = cls.__qualname__
    made.__init__ = _initialiser(made, fields)
    result: type[T] = made
    return result


def _fields(namespace: dict[str, Any]) -> dict[str, Field[Any]]:
    """Of the annotations, which are in order. Takes their defaults out of the class."""
    found: dict[str, Field[Any]] = {}
    for name, annotation in namespace.get("__annotations__", {}).items():
        given = namespace.pop(name, MISSING)
        each: Any = given if isinstance(given, Field) else field(default=given)
        if each.default_factory is not MISSING:
            raise TypeError(f"{name}: a record has no default factories")
        each.name, each.type, each.kw_only = name, annotation, False
        each._field_type = dataclasses._FIELD  # type: ignore[attr-defined]
        found[name] = each
    return found


def _parameters() -> Any:
    """``__dataclass_params__``, which a dataclass that inherits from a record looks at."""
    global _PARAMETERS
    if _PARAMETERS is None:
        some: Any = dataclasses.dataclass(frozen=True)(type("_Any", (), {}))
        _PARAMETERS = some.__dataclass_params__
    return _PARAMETERS


def _initialiser(made: Any, fields: dict[str, Field[Any]]) -> Any:
    names: dict[str, Any] = {}
    arguments, body = ["self"], []
    for name, each in fields.items():
        names[f"_set_{name}"] = vars(made)[name].__set__
        body.append(f"_set_{name}(self, {name})")
        arguments.append(name)
        if each.default is not MISSING:
            names[f"_default_{name}"] = each.default
            arguments[-1] = f"{name}=_default_{name}"
    if hasattr(made, "__post_init__"):
        body.append("self.__post_init__()")
    exec(f"def __init__({', '.join(arguments)}):\n {'; '.join(body) or 'pass'}", names)
    initialiser = names["__init__"]
    initialiser.__qualname__ = f"{made.__qualname__}.__init__"
    initialiser.__annotations__ = {name: each.type for name, each in fields.items()} | {"return": None}
    return initialiser


def _compared(self: Any) -> tuple[Any, ...]:
    return tuple(
        [getattr(self, name) for name, each in self.__dataclass_fields__.items() if each.compare is True]
    )


def _eq(self: Any, other: object) -> bool:
    return _compared(self) == _compared(other) if other.__class__ is self.__class__ else NotImplemented


def _hash(self: Any) -> int:
    return hash(_compared(self))


def _repr(self: Any) -> str:
    shown = [name for name, each in self.__dataclass_fields__.items() if each.repr]
    return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"


def _set(self: Any, name: str, value: object) -> None:
    raise FrozenInstanceError(f"cannot assign to field {name!r}")


def _delete(self: Any, name: str) -> None:
    raise FrozenInstanceError(f"cannot delete field {name!r}")


def _replace(self: Any, /, **changes: Any) -> Any:
    return dataclasses.replace(self, **changes)


def _get_state(self: Any) -> list[Any]:
    return [getattr(self, name) for name in self.__dataclass_fields__]


def _set_state(self: Any, state: list[Any]) -> None:
    for name, value in zip(self.__dataclass_fields__, state, strict=True):
        object.__setattr__(self, name, value)


_METHODS: dict[str, Any] = {
    "__eq__": _eq,
    "__hash__": _hash,
    "__repr__": _repr,
    "__setattr__": _set,
    "__delattr__": _delete,
    "__replace__": _replace,  # for copy.replace, from Python 3.13 on
    "__getstate__": _get_state,
    "__setstate__": _set_state,
}
