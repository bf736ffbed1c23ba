"""Every AEAD of the table: RFC 8439 vectors, agreement with `cryptography`, tampering, choice, self-test."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from udpring._native import ffi, lib, reason, reason_text

TOP = Path(__file__).resolve().parent.parent.parent
VECTORS = json.loads((TOP / "tests" / "vectors" / "rfc8439.json").read_text())
TAG = 16
NAMES = [ffi.string(lib.udpring_aead_name(which)).decode() for which in range(lib.udpring_aead_count())]
every_aead = pytest.mark.parametrize("which", range(len(NAMES)), ids=NAMES)


def nonce_of(counter: int) -> bytes:
    return bytes(4) + counter.to_bytes(8, "little")


def seal(which: int, key: bytes, counter: int, plaintext: bytes) -> bytes:
    out = ffi.new("uint8_t[]", len(plaintext) + TAG)
    assert lib.udpring_aead_seal(which, key, counter, plaintext, len(plaintext), out) == 0
    return bytes(out)


def open_(which: int, key: bytes, counter: int, sealed: bytes) -> bytes:
    """Raises InvalidTag as `cryptography` does; then nothing may have been written."""
    out = ffi.new("uint8_t[]", b"\xa5" * max(len(sealed) - TAG, 1))
    code = lib.udpring_aead_open(which, key, counter, sealed, len(sealed), out)
    if code:
        assert code == -errno.EBADMSG
        assert set(bytes(out)[:-1]) == {0xA5}  # cffi puts a zero behind the bytes
        raise InvalidTag
    return bytes(out)[: len(sealed) - TAG]


def seal_aad(which: int, key: bytes, nonce: bytes, aad: bytes, plaintext: bytes) -> bytes:
    out = ffi.new("uint8_t[]", len(plaintext) + TAG)
    assert not lib.udpring_aead_seal_aad(which, key, nonce, aad, len(aad), plaintext, len(plaintext), out)
    return bytes(out)


def open_aad(which: int, key: bytes, nonce: bytes, aad: bytes, sealed: bytes) -> bytes | int:
    out = ffi.new("uint8_t[]", max(len(sealed) - TAG, 1))
    code = lib.udpring_aead_open_aad(which, key, nonce, aad, len(aad), sealed, len(sealed), out)
    return int(code) if code else bytes(out)[: len(sealed) - TAG]


def test_the_table_has_openssl_and_an_end() -> None:
    assert "openssl" in NAMES
    assert len(set(NAMES)) == len(NAMES)
    for which in (-1, len(NAMES), 2**31 - 1):
        assert lib.udpring_aead_name(which) == ffi.NULL
        assert lib.udpring_aead_seal(which, bytes(32), 0, b"", 0, ffi.new("uint8_t[16]")) == -errno.EINVAL
        why = reason()
        assert lib.udpring_aead_selftest(which, why) == -errno.EINVAL
        assert str(which) in reason_text(why)


@every_aead
def test_self_test_passes(which: int) -> None:
    why = reason()
    assert lib.udpring_aead_selftest(which, why) == 0, reason_text(why)


@every_aead
@pytest.mark.parametrize("vector", VECTORS["aead"], ids=lambda vector: vector["section"])
def test_rfc_8439_aead(which: int, vector: dict[str, str]) -> None:
    key, nonce, aad, plaintext, sealed = (
        bytes.fromhex(vector[name]) for name in ("key", "nonce", "aad", "plaintext", "sealed")
    )
    assert seal_aad(which, key, nonce, aad, plaintext) == sealed
    assert open_aad(which, key, nonce, aad, sealed) == plaintext
    for position in range(len(sealed)):
        tampered = bytearray(sealed)
        tampered[position] ^= 1
        assert open_aad(which, key, nonce, aad, bytes(tampered)) == -errno.EBADMSG
    for position in range(len(aad)):
        assert open_aad(which, key, nonce, aad[:position], sealed) == -errno.EBADMSG


@every_aead
@pytest.mark.parametrize("vector", VECTORS["stream"], ids=lambda vector: vector["section"])
def test_rfc_8439_key_stream(which: int, vector: dict[str, Any]) -> None:
    """The cipher's own vectors: the AEAD encrypts from block 1 on (2.8); padding fills the blocks before."""
    key, nonce, plaintext = (bytes.fromhex(vector[name]) for name in ("key", "nonce", "plaintext"))
    padding = bytes(64 * (vector["block"] - 1))
    sealed = seal_aad(which, key, nonce, b"", padding + plaintext)
    assert sealed[len(padding) : -TAG].hex() == vector["ciphertext"]
    assert open_aad(which, key, nonce, b"", sealed) == padding + plaintext
    if not any(nonce[:4]):
        assert seal(which, key, int.from_bytes(nonce[4:], "little"), padding + plaintext) == sealed


KEYS = st.binary(min_size=32, max_size=32)
COUNTERS = st.integers(0, 2**64 - 1) | st.sampled_from([0, 2**32 - 1, 2**32, 2**63, 2**64 - 2**13 - 2])
# Lengths around the sizes that implementations treat apart, and the greatest inner packet.
LENGTHS = st.one_of(
    st.sampled_from(
        [n + d for n in (0, 16, 64, 128, 256, 512, 1024, 1420) for d in (-1, 0, 1) if n + d >= 0]
    ),
    st.integers(0, 2100),
    st.sampled_from([9000, 65503, 65535]),
)
PACKETS = st.builds(
    lambda length, seed: (seed * (length // len(seed) + 1))[:length], LENGTHS, st.binary(min_size=1)
)


@every_aead
@given(key=KEYS, counter=COUNTERS, plaintext=PACKETS)
def test_agrees_with_cryptography(which: int, key: bytes, counter: int, plaintext: bytes) -> None:
    sealed = ChaCha20Poly1305(key).encrypt(nonce_of(counter), plaintext, None)
    assert seal(which, key, counter, plaintext) == sealed
    assert open_(which, key, counter, sealed) == plaintext


@every_aead
@given(key=KEYS, nonce=st.binary(min_size=12, max_size=12), aad=st.binary(max_size=100), plaintext=PACKETS)
def test_agrees_with_cryptography_on_associated_data(
    which: int, key: bytes, nonce: bytes, aad: bytes, plaintext: bytes
) -> None:
    sealed = ChaCha20Poly1305(key).encrypt(nonce, plaintext, aad)
    assert seal_aad(which, key, nonce, aad, plaintext) == sealed
    assert open_aad(which, key, nonce, aad, sealed) == plaintext


@every_aead
@given(key=KEYS, counter=COUNTERS, plaintext=PACKETS, data=st.data())
def test_any_flipped_bit_is_noticed(
    which: int, key: bytes, counter: int, plaintext: bytes, data: st.DataObject
) -> None:
    sealed = bytearray(ChaCha20Poly1305(key).encrypt(nonce_of(counter), plaintext, None))
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(InvalidTag):
        open_(which, key, counter, bytes(sealed))


@every_aead
@given(key=KEYS, counter=COUNTERS, plaintext=PACKETS, data=st.data())
def test_any_other_length_is_noticed(
    which: int, key: bytes, counter: int, plaintext: bytes, data: st.DataObject
) -> None:
    sealed = ChaCha20Poly1305(key).encrypt(nonce_of(counter), plaintext, None)
    cut = data.draw(st.integers(0, len(sealed) - 1))
    for wrong in (sealed[:cut], sealed[cut + 1 :], sealed + bytes(1 + cut % 16)):
        with pytest.raises(InvalidTag):
            open_(which, key, counter, wrong)


@every_aead
@given(key=KEYS, counter=COUNTERS, bit=st.integers(0, 63), plaintext=PACKETS)
def test_another_counter_or_key_is_noticed(
    which: int, key: bytes, counter: int, bit: int, plaintext: bytes
) -> None:
    sealed = seal(which, key, counter, plaintext)
    with pytest.raises(InvalidTag):
        open_(which, key, counter ^ 1 << bit, sealed)
    with pytest.raises(InvalidTag):
        open_(which, bytes([key[0] ^ 1]) + key[1:], counter, sealed)


@every_aead
def test_the_empty_packet(which: int) -> None:
    """A keepalive: a tag and nothing else. NULL stands for no bytes."""
    key = bytes(range(32))
    out = ffi.new("uint8_t[16]")
    assert lib.udpring_aead_seal(which, key, 9, ffi.NULL, 0, out) == 0
    assert bytes(out) == ChaCha20Poly1305(key).encrypt(nonce_of(9), b"", None)
    assert lib.udpring_aead_open(which, key, 9, out, 16, ffi.NULL) == 0
    assert lib.udpring_aead_open(which, key, 10, out, 16, ffi.NULL) == -errno.EBADMSG
    for length in range(TAG):
        assert lib.udpring_aead_open(which, key, 9, out, length, ffi.NULL) == -errno.EBADMSG


def test_the_self_tests_own_vectors_come_from_another_implementation() -> None:
    """The tags in aead_selftest.c are made here anew, from the rule its comment gives."""
    source = (TOP / "udpring" / "native" / "tunnel" / "aead_selftest.c").read_text()
    rows = re.findall(r"\{ (\d+), UINT64_C\((0x[0-9a-f]+)\), \{ ([^}]*) \} \}", source)
    assert len(rows) > 20
    aead = ChaCha20Poly1305(bytes(range(0x80, 0xA0)))
    for length, counter, tag in ((int(row[0]), int(row[1], 16), row[2]) for row in rows):
        plaintext = bytes((7 * i + length) & 0xFF for i in range(length))
        made = aead.encrypt(nonce_of(counter), plaintext, None)[-TAG:]
        assert made == bytes(int(byte, 16) for byte in tag.split(", ")), length


def chosen_with(name: str | None) -> tuple[int, str]:
    """What a fresh process chooses when UDPRING_AEAD is this."""
    program = (
        "from udpring._native import ffi, lib\n"
        "print(lib.udpring_aead_chosen(), ffi.string(lib.udpring_aead_why()).decode())"
    )
    environment = {key: value for key, value in os.environ.items() if key != "UDPRING_AEAD"}
    if name is not None:
        environment["UDPRING_AEAD"] = name
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=TOP, capture_output=True, text=True, check=True
    )
    number, why = run.stdout.strip().split(" ", 1)
    return int(number), why


@pytest.mark.parametrize("name", [None, ""])
def test_the_first_that_works_is_chosen(name: str | None) -> None:
    which, why = chosen_with(name)
    assert which in range(len(NAMES))
    assert f"{NAMES[which]}: the first that passed its self-test" in why


@every_aead
def test_the_environment_forces_one(which: int) -> None:
    assert chosen_with(NAMES[which]) == (which, f"{NAMES[which]}: forced by UDPRING_AEAD")


def test_forcing_one_that_is_not_there_says_so() -> None:
    which, why = chosen_with("rot13")
    assert which == -errno.ENOTSUP
    assert "rot13" in why
    assert all(name in why for name in NAMES)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of broken_aead.c."""
    folder = tmp_path_factory.mktemp("broken_aead")
    native = TOP / "udpring" / "native"
    compiler = [*shlex.split(os.environ.get("CC", "cc")), "-std=gnu11", "-O1", f"-I{native}"]
    sound = folder / "sound.o"
    subprocess.run(
        [*compiler, "-Daead_openssl=sound_aead", "-c", native / "tunnel" / "aead_openssl.c", "-o", sound],
        check=True,
    )
    sources = [native / "base.c", native / "tunnel" / "aead.c", native / "tunnel" / "aead_selftest.c"]
    program = folder / "broken"
    subprocess.run(
        [
            *compiler,
            Path(__file__).with_name("broken_aead.c"),
            *sources,
            sound,
            "-o",
            program,
            "-lcrypto",
            "-pthread",
        ],
        check=True,
    )
    return program


@pytest.mark.parametrize(
    ("defect", "said"),
    [
        ("absent", "this CPU lacks what it needs"),
        ("no_tag", "it took a tampered copy of"),
        ("short_counter", "sealing"),
        ("last_of_burst", "sealing"),
        ("late_in_burst", "a call"),
        ("wrong_text", "what came out of opening"),
        ("ignores_aad", "RFC 8439 2.8.2"),
    ],
)
def test_an_implementation_that_fails_its_self_test_is_not_used(broken: Path, defect: str, said: str) -> None:
    environment = {
        key: value for key, value in os.environ.items() if key not in ("UDPRING_AEAD", "LD_PRELOAD")
    }
    run = subprocess.run([broken, defect], env=environment, capture_output=True, text=True, check=True)
    chosen, why = run.stdout.splitlines()
    assert chosen == "none"
    assert said in why


def test_the_sound_one_is_used_in_the_same_program(broken: Path) -> None:
    environment = {
        key: value for key, value in os.environ.items() if key not in ("UDPRING_AEAD", "LD_PRELOAD")
    }
    run = subprocess.run([broken, "none"], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[0] == "openssl"
