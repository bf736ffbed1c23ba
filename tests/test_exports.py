"""The public names of ``import udpring``: exactly these, each with its documentation."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from packaging.version import Version

import udpring
from udpring import _version

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


def test_names_in_texts_exist() -> None:
    """Each ``udpring.Name`` that a message or a docstring tells the user is public."""
    listed = {
        name
        for path in (TOP / "udpring").rglob("*.py")
        for name in re.findall(r"\budpring\.([A-Z]\w*)", path.read_text())
    }
    assert {"Cipher", "Node"} <= listed <= set(udpring.__all__)
