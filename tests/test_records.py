"""A record behaves as a frozen dataclass with slots."""

from __future__ import annotations

import copy
import inspect
import pickle
import sys
from dataclasses import FrozenInstanceError, asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any

import pytest

from udpring.records import mutable_record, record


@record
class Made:
    """Its words."""

    number: int
    secret: bytes = field(repr=False)
    name: str = "x"
    note: str | None = field(default=None, compare=False)

    @property
    def double(self) -> int:
        return 2 * self.number


@dataclass(frozen=True, slots=True)
class Known:
    """Its words."""

    number: int
    secret: bytes = field(repr=False)
    name: str = "x"
    note: str | None = field(default=None, compare=False)

    @property
    def double(self) -> int:
        return 2 * self.number


@record
class Empty:
    pass


class Slotted(Made):
    __slots__ = ()


class Outer:
    @record
    class Inner:
        number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Inheriting(Made):
    more: int = 0


@pytest.mark.parametrize("arguments", [(1, b"s"), (1, b"s", "y"), (2, b"t", "y", "note")])
def test_record_is_as_the_dataclass(arguments: tuple[Any, ...]) -> None:
    made, known = Made(*arguments), Known(*arguments)
    assert repr(made) == repr(known).replace("Known", "Made")
    assert asdict(made) == asdict(known)
    assert [each.name for each in fields(made)] == [each.name for each in fields(known)]
    assert hash(made) == hash(known)
    assert asdict(replace(made, name="z")) == asdict(replace(known, name="z"))
    assert made.double == known.double
    assert made.__doc__ == known.__doc__
    assert copy.copy(made) == copy.deepcopy(made) == pickle.loads(pickle.dumps(made)) == made
    assert pickle.loads(pickle.dumps(made)).note == made.note


def test_nested_record_is_found_by_its_name() -> None:
    made = Outer.Inner(1)
    assert repr(made) == "Outer.Inner(number=1)"
    assert pickle.loads(pickle.dumps(made)) == made


def test_subclass_with_slots_keeps_the_fields() -> None:
    made = Slotted(1, b"s", note="note")
    for same in (copy.copy(made), pickle.loads(pickle.dumps(made))):
        assert same == made
        assert same.note == "note"


def test_copy_replace_changes_a_field() -> None:
    made: Any = Made(1, b"s", note="note")
    assert asdict(made.__replace__(name="z")) == asdict(replace(made, name="z"))
    if sys.version_info >= (3, 13):
        assert asdict(copy.replace(made, name="z")) == asdict(replace(made, name="z"))


def test_signature_is_that_of_the_dataclass() -> None:
    made: Any = Made
    assert inspect.signature(made) == inspect.signature(Known)
    with pytest.raises(TypeError, match=r"^Made\.__init__\(\) missing"):
        made()


def test_equal_are_values_of_one_class() -> None:
    assert Made(1, b"s") == Made(1, b"s", note="other")
    assert Made(1, b"s") != Made(2, b"s")
    assert Made(1, b"s") != Known(1, b"s")
    assert Made(1, b"s") != (1, b"s", "x")
    assert Empty() == Empty()
    assert len({Empty(), Empty(), Made(1, b""), Made(1, b"")}) == 2


def test_record_cannot_be_changed() -> None:
    made: Any = Made(1, b"s")
    with pytest.raises(FrozenInstanceError):
        made.number = 2
    with pytest.raises(FrozenInstanceError):
        del made.number
    with pytest.raises((FrozenInstanceError, AttributeError)):
        made.unknown = 2
    assert not hasattr(made, "__dict__")


def test_wrong_arguments_are_a_type_error() -> None:
    make: Any = Made
    for arguments, named in (((), {}), ((1,), {}), ((1, b"", "", "", 5), {}), ((1, b""), {"other": 1})):
        with pytest.raises(TypeError):
            make(*arguments, **named)
    assert make(secret=b"", number=3).number == 3


def test_record_is_matched_by_place() -> None:
    match Made(1, b"s", "y"):
        case Made(number, _, name):
            assert (number, name) == (1, "y")


def test_dataclass_may_inherit_from_a_record() -> None:
    made = Inheriting(1, b"s", more=5)
    assert is_dataclass(Made)
    assert asdict(made) == {"number": 1, "secret": b"s", "name": "x", "note": None, "more": 5}


@record
class Extending(Made):
    more: int = field(kw_only=True)
    note: str | None = "changed"


def test_record_inherits_fields() -> None:
    made = Extending(1, b"s", more=5)
    assert asdict(made) == {"number": 1, "secret": b"s", "name": "x", "note": "changed", "more": 5}
    assert Extending.__slots__ == ("more",)  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(made)) == made
    with pytest.raises(TypeError, match="positional"):
        Extending(1, b"s", "x", "note", 5)  # type: ignore[call-arg, misc]


@mutable_record
class Counted:
    """Its words."""

    number: int
    secret: bytes = field(default=b"", repr=False)
    found: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class CountedKnown:
    """Its words."""

    number: int
    secret: bytes = field(default=b"", repr=False)
    found: dict[str, int] = field(default_factory=dict)


def test_mutable_record_is_as_the_dataclass() -> None:
    made, known = Counted(1), CountedKnown(1)
    made.number = known.number = 3
    made.found["x"] = known.found["x"] = 1
    assert repr(made) == repr(known).replace("CountedKnown", "Counted")
    assert asdict(made) == asdict(known)
    assert inspect.signature(Counted) == inspect.signature(CountedKnown)
    assert Counted(1) == Counted(1, found={}) != made
    assert Counted(1).found is not Counted(1).found
    assert Counted.__hash__ is CountedKnown.__hash__ is None
    assert not hasattr(made, "__dict__")


def test_initialiser_is_made_at_first_use() -> None:
    @record
    class Late:
        number: int

    before = vars(Late)["__init__"]
    assert not inspect.isfunction(before)
    assert Late(2).number == 2
    after = vars(Late)["__init__"]
    assert inspect.isfunction(after)
    assert inspect.ismethod(before.__get__(Late(3)))  # of a thread that looked before
    assert vars(Late)["__init__"] is after


def test_default_factory_is_refused() -> None:
    with pytest.raises(TypeError, match="default factories"):

        @record
        class Wrong:
            values: list[int] = field(default_factory=list)
