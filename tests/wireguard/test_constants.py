"""Protocol constants in the core's headers equal those in Python."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from reference import session

from udpring.wireguard import constants

NATIVE = Path(__file__).parents[2] / "udpring" / "native" / "tunnel"
TEXT = (NATIVE / "messages.h").read_text() + (NATIVE / "crypto" / "replay.h").read_text()


def number(name: str) -> int:
    """The value of a macro or enumerator made of integers, shifts, sums and products."""
    found = re.search(rf"(?:#define {name} |\b{name} = )([^,\n]*?)[,\n]", TEXT)
    assert found is not None, name
    words = found[1].partition("/*")[0].replace("UINT64_MAX", str(2**64 - 1))
    words = re.sub(r"\b(0x[0-9a-f]+|\d+)(?:ull|u)\b", r"\1", words)
    words = re.sub(r"\b[A-Z][A-Z_0-9]+\b", lambda other: str(number(other[0])), words)
    assert re.fullmatch(r"[-+*<() 0-9xa-f]+", words), words
    return int(eval(words, {"__builtins__": {}}))


@pytest.mark.parametrize(
    ("native", "ours"),
    [
        ("WG_REKEY_AFTER_MESSAGES", "REKEY_AFTER_MESSAGES"),
        ("WG_REJECT_AFTER_MESSAGES", "REJECT_AFTER_MESSAGES"),
        ("WG_REKEY_AFTER_TIME_NS", "REKEY_AFTER_TIME"),
        ("WG_REJECT_AFTER_TIME_NS", "REJECT_AFTER_TIME"),
        ("WG_REKEY_ON_RECEIVE_NS", "REKEY_AFTER_TIME_RECEIVING"),
        ("WG_PADDING", "PADDING"),
        ("WG_TAG", "TAG_LENGTH"),
        ("REPLAY_WINDOW", "WINDOW_SIZE"),
    ],
)
def test_the_core_has_the_same_number(native: str, ours: str) -> None:
    owner = constants if hasattr(constants, ours) else session
    assert number(native) == getattr(owner, ours)


def test_a_key_ends_where_the_whitepaper_says() -> None:
    assert number("WG_REJECT_AFTER_MESSAGES") == 2**64 - 2**13 - 1
    assert number("WG_REKEY_AFTER_MESSAGES") == 2**60
