"""Data classes that take little time to define: ``record``, which is frozen, and ``mutable_record``.

The result is that of ``dataclass(frozen=True, slots=True)`` and ``dataclass(slots=True)``, in a thirtieth of
the time. ``dataclass`` compiles up to six functions for each class. In a program with seventy
classes nothing else at the start takes as long. Here ``__init__`` is compiled when it is first used, so a
class without objects costs nothing more. The other functions are the same for all classes.
``dataclasses.fields``, ``asdict`` and ``replace`` work, and so do patterns, ``copy`` and ``pickle``. A record
inherits the fields of its bases. Only a ``mutable_record`` has default factories.
"""

from __future__ import annotations

import dataclasses
from dataclasses import MISSING, Field, FrozenInstanceError, field
from typing import Any, TypeVar, dataclass_transform

__all__ = ["mutable_record", "record"]

T = TypeVar("T")

_parameters: dict[bool, Any] = {}


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(cls: type[T]) -> type[T]:
    """Makes the class a frozen dataclass with slots."""
    return _made(cls, _METHODS | _FROZEN, frozen=True)


@dataclass_transform(field_specifiers=(field,))
def mutable_record(cls: type[T]) -> type[T]:
    """Makes the class a dataclass with slots, whose fields may be set and have default factories."""
    return _made(cls, _METHODS | {"__hash__": None}, frozen=False)


def _made(cls: type[T], methods: dict[str, Any], *, frozen: bool) -> type[T]:
    namespace = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
    own = _own_fields(namespace, frozen=frozen)
    inherited: dict[str, Field[Any]] = {}
    for base in reversed(cls.__mro__[1:]):
        inherited |= vars(base).get("__dataclass_fields__", {})
    fields = inherited | own
    namespace |= methods | {name: namespace[name] for name in methods if name in vars(cls)}
    namespace["__slots__"] = tuple(name for name in own if name not in inherited)
    namespace["__match_args__"] = tuple(name for name, each in fields.items() if not each.kw_only)
    namespace["__dataclass_fields__"] = fields
    namespace["__dataclass_params__"] = _parameters_of(frozen)
    make: Any = type(cls)
    made: Any = make(cls.__name__, cls.__bases__, namespace)
    made.__qualname__ = cls.__qualname__
    made.__init__ = _FirstUse(made)
    result: type[T] = made
    return result


def _own_fields(namespace: dict[str, Any], *, frozen: bool) -> dict[str, Field[Any]]:
    """Of the annotations, which are in order. Takes their defaults out of the class."""
    found: dict[str, Field[Any]] = {}
    for name, annotation in namespace.get("__annotations__", {}).items():
        given = namespace.pop(name, MISSING)
        each: Any = given if isinstance(given, Field) else field(default=given)
        if frozen and each.default_factory is not MISSING:
            raise TypeError(f"{name}: a record has no default factories")
        each.name, each.type, each.kw_only = name, annotation, each.kw_only is True
        each._field_type = dataclasses._FIELD  # type: ignore[attr-defined]
        found[name] = each
    return found


def _parameters_of(frozen: bool) -> Any:
    """``__dataclass_params__``, from a class for which nothing else is made. A dataclass that inherits from a
    record sees there whether that is frozen."""
    if frozen not in _parameters:
        parameters = dataclasses.dataclass(init=False, repr=False, eq=False, match_args=False, frozen=frozen)
        some: Any = parameters(type("_Any", (), {"__doc__": "else dataclass makes a signature"}))
        _parameters[frozen] = some.__dataclass_params__
    return _parameters[frozen]


class _FirstUse:
    """Stands for ``__init__`` until its first use. Two threads may compile it at once, which does no harm."""

    __slots__ = ("_made",)

    def __init__(self, made: Any) -> None:
        self._made = made

    def __get__(self, instance: object, owner: type[Any] | None = None) -> Any:
        made = self._made
        initialiser = _initialiser(made, made.__dataclass_fields__)
        if isinstance(vars(made)["__init__"], _FirstUse):
            made.__init__ = initialiser
        return initialiser.__get__(instance, owner)


def _initialiser(made: Any, fields: dict[str, Field[Any]]) -> Any:
    names: dict[str, Any] = {"_factory": _FACTORY}
    arguments: dict[bool, list[str]] = {False: [], True: []}
    body = []
    for name, each in fields.items():
        names[f"_set_{name}"] = getattr(made, name).__set__
        argument, value = name, name
        if each.default is not MISSING:
            names[f"_default_{name}"] = each.default
            argument = f"{name}=_default_{name}"
        elif each.default_factory is not MISSING:
            names[f"_make_{name}"] = each.default_factory
            argument, value = f"{name}=_factory", f"_make_{name}() if {name} is _factory else {name}"
        arguments[each.kw_only is True].append(argument)
        body.append(f"_set_{name}(self, {value})")
    if hasattr(made, "__post_init__"):
        body.append("self.__post_init__()")
    keywords = ["*", *arguments[True]] if arguments[True] else []
    listed = ", ".join(["self", *arguments[False], *keywords])
    exec(f"def __init__({listed}):\n {'; '.join(body) or 'pass'}", names)
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


_FACTORY: Any = getattr(dataclasses, "_HAS_DEFAULT_FACTORY", "<factory>")
"""The default of an argument whose value a factory makes: as ``dataclass`` shows it in a signature."""
_FROZEN: dict[str, Any] = {"__hash__": _hash, "__setattr__": _set, "__delattr__": _delete}
_METHODS: dict[str, Any] = {
    "__eq__": _eq,
    "__repr__": _repr,
    "__replace__": _replace,  # for copy.replace, from Python 3.13 on
    "__getstate__": _get_state,
    "__setstate__": _set_state,
}
