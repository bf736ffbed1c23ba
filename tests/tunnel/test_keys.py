"""Keys as text, against the vector of RFC 7748 and, if installed, the real ``wg``."""

from __future__ import annotations

import base64
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from udpring.tunnel import keys

WG = shutil.which("wg")
needs_wg = pytest.mark.skipif(WG is None, reason="wireguard-tools is not installed")
key_bytes = st.binary(min_size=32, max_size=32)


def test_public_key_of_rfc_7748_section_6_1() -> None:
    private = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    public = bytes.fromhex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f")
    assert keys.public_key(private) == public


@given(key_bytes)
def test_text_round_trips(key: bytes) -> None:
    assert keys.from_base64(keys.to_base64(key)) == key
    assert keys.from_hex(keys.to_hex(key)) == key
    assert keys.from_hex(keys.to_hex(key).upper()) == key


@given(key_bytes)
def test_clamping_changes_no_public_key_and_happens_once(key: bytes) -> None:
    clamped = keys.clamp(key)
    assert clamped == keys.clamp(clamped)
    assert keys.public_key(clamped) == keys.public_key(key)
    assert (clamped[0] & 7, clamped[31] & 0xC0) == (0, 0x40)


def test_generated_keys_differ_and_private_ones_are_clamped() -> None:
    private = [keys.generate_private_key() for _ in range(8)]
    assert len(set(private)) == 8
    assert all(key == keys.clamp(key) and len(key) == 32 for key in private)
    assert len({keys.generate_preshared_key() for _ in range(8)}) == 8


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("", 0),
        ("AAAA", 4),
        ("A" * 44, 44),
        ("A" * 43, 43),
        ("A" * 42 + "==", 44),
        ("A" * 10 + "*" + "A" * 32 + "=", 10),
        ("A" * 42 + "B=", 42),
        ("A" * 43 + "=\n", 44),
        ("A" * 42 + "_=", 42),
        ("é" + "A" * 42 + "=", 0),
    ],
)
def test_what_is_no_base64_key(text: str, position: int) -> None:
    with pytest.raises(keys.KeyFormatError) as caught:
        keys.from_base64(text)
    assert caught.value.position == position


@pytest.mark.parametrize(
    "text", ["", "00", "0" * 63, "0" * 65, "0" * 63 + "g", "0x" + "0" * 62, "0" * 63 + "٣"]
)
def test_what_is_no_hexadecimal_key(text: str) -> None:
    with pytest.raises(keys.KeyFormatError):
        keys.from_hex(text)


@given(st.text(min_size=8, max_size=60))
def test_an_error_holds_nothing_of_the_text(text: str) -> None:
    for read in (keys.from_base64, keys.from_hex):
        with pytest.raises(keys.KeyFormatError) as caught:
            read(text + "~")
        assert text not in str(caught.value)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_public_key_of_another_length(length: int) -> None:
    with pytest.raises(keys.KeyFormatError):
        keys.public_key(bytes(length))
    with pytest.raises(keys.KeyFormatError):
        keys.clamp(bytes(length))


@needs_wg
@settings(max_examples=10, deadline=None)
@given(key_bytes)
def test_wg_pubkey_says_the_same(key: bytes) -> None:
    text = base64.b64encode(key).decode()
    said = subprocess.run(
        ["wg", "pubkey"], input=text + "\n", capture_output=True, text=True, check=True
    ).stdout
    assert keys.to_base64(keys.public_key(keys.from_base64(text))) == said.strip()


@needs_wg
@settings(max_examples=20, deadline=None)
@given(key_bytes, st.integers(0, 43), st.sampled_from("A9+/=*-_ "))
def test_wg_takes_and_refuses_the_same_texts(key: bytes, place: int, character: str) -> None:
    text = base64.b64encode(key).decode()
    text = text[:place] + character + text[place + 1 :]
    wg = subprocess.run(["wg", "pubkey"], input=text + "\n", capture_output=True, text=True, check=False)
    try:
        keys.from_base64(text)
    except keys.KeyFormatError:
        assert wg.returncode != 0
    else:
        assert wg.returncode == 0
