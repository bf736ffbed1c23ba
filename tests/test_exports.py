"""The public names of ``import udpring``: exactly these, each with its documentation."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.version import Version

import udpring
from udpring import _version
from udpring.cli import main
from udpring.tunnel import config

TOP = Path(__file__).resolve().parent.parent


def test_all_has_no_doubles_and_resolves() -> None:
    assert sorted(set(udpring.__all__)) == sorted(udpring.__all__)
    for name in udpring.__all__:
        assert getattr(udpring, name) is not None


def test_nothing_public_is_left_out() -> None:
    public = {
        name
        for name, value in vars(udpring).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert public <= set(udpring.__all__), "import it under a private name, or export it"


def test_public_classes_and_functions_are_documented() -> None:
    bare = []
    for name in udpring.__all__:
        value = getattr(udpring, name)
        if not (inspect.isclass(value) or inspect.isroutine(value)):
            continue
        if not inspect.getdoc(value):
            bare.append(name)
        if inspect.isclass(value):
            for member, held in vars(value).items():
                described = inspect.isroutine(held) or isinstance(held, property)
                if described and not member.startswith("_") and not inspect.getdoc(getattr(value, member)):
                    bare.append(f"{name}.{member}")
    assert not bare


def test_version_is_the_builds() -> None:
    assert udpring.__version__ == _version.version
    assert Version(udpring.__version__) > Version("0.1")


def within(hint: object) -> Iterator[object]:
    """A type and the types in it, such as those of a union."""
    yield hint
    for part in typing.get_args(hint):
        yield from within(part)


@pytest.mark.parametrize(
    "made", [udpring.Config, udpring.InterfaceConfig, udpring.PeerConfig, udpring.Endpoint, udpring.Rootless]
)
def test_programs_build_a_config_of_public_types(made: type) -> None:
    """A type of udpring that a program has to make has a public name."""
    hints = typing.get_type_hints(made.__init__, localns=vars(config))  # type: ignore[misc]
    public = [getattr(udpring, name) for name in udpring.__all__]
    for name, hint in hints.items():
        for each in within(hint):
            if inspect.isclass(each) and each.__module__.startswith("udpring."):
                assert each in public, (name, each)


def texts() -> Iterator[str]:
    """Messages, help and docstrings of the product, in Python and in C."""
    for path in (TOP / "udpring").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
    for path in (TOP / "udpring" / "native").rglob("*.[ch]"):
        yield from re.findall(r'"((?:[^"\\\n]|\\.)*)"', path.read_text())


def exists(path: str) -> bool:
    """Whether the names after ``udpring`` lead to a module or to an attribute."""
    found: object = udpring
    for at, name in enumerate(names := path.split(".")):
        if not hasattr(found, name):
            try:
                importlib.import_module(".".join(("udpring", *names[: at + 1])))
            except ImportError:
                return False
        found = getattr(found, name)
    return True


FILES_AND_LOGGERS = {"log", "sock", "fish", "node", "proxy", "uapi"}


def test_names_in_texts_exist() -> None:
    """Each ``udpring.name``, and each ``Class.name`` of a public class."""
    named = {name for text in texts() for name in re.findall(r"\budpring\.([A-Za-z_][\w.]*\w)", text)}
    assert {"Cipher", "Node", "uring"} <= named
    assert not {name for name in named - FILES_AND_LOGGERS if not exists(name)}
    classes = "|".join(name for name in udpring.__all__ if inspect.isclass(getattr(udpring, name)))
    of_classes = {
        found for text in texts() for found in re.findall(rf"(?<![\w.])((?:{classes})\.[a-z]\w*)", text)
    }
    assert {"Config.load", "Node.socket"} <= of_classes
    assert not {name for name in of_classes if not exists(name)}


def test_a_name_that_does_not_exist_is_seen() -> None:
    assert exists("Config.load")
    assert exists("uring.server.Server")
    assert not exists("Cypher")
    assert not exists("Config.lode")


def test_commands_in_texts_exist() -> None:
    words = {found for text in texts() for found in re.findall(r"(?:`|: )udpring ([a-z]+)", text)}
    assert {"up", "down", "doctor"} <= words <= {*main.command_names(), "itself"}
