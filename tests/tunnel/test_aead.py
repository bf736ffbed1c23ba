"""Each AEAD of the table: published vectors, agreement with `cryptography`, tampering, choice, self-test."""

from __future__ import annotations

import concurrent.futures
import ctypes
import errno
import json
import mmap
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from core_internals import ffi, lib
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st

from udpring._native import reason, reason_text
from udpring_tools._native import lib as bench

TOP = Path(__file__).resolve().parent.parent.parent
VECTORS = json.loads((TOP / "tests" / "vectors" / "rfc8439.json").read_text())
TAG = 16
GCM_VECTORS = json.loads((TOP / "tests" / "vectors" / "gcm.json").read_text())
CHACHA: int = lib.UDPRING_CIPHER_CHACHA20_POLY1305
GCM: int = lib.UDPRING_CIPHER_AES_256_GCM
CIPHERS = {CHACHA: "chacha20-poly1305", GCM: "aes-256-gcm"}
NAMES = [ffi.string(lib.udpring_aead_name(which)).decode() for which in range(lib.udpring_aead_count())]
CIPHER_OF = [lib.udpring_aead_cipher(which) for which in range(len(NAMES))]
IDS = [f"{name}-{CIPHERS[cipher]}" for name, cipher in zip(NAMES, CIPHER_OF, strict=True)]
every_aead = pytest.mark.parametrize("which", range(len(NAMES)), ids=IDS)
every_cipher = pytest.mark.parametrize("cipher", CIPHERS, ids=CIPHERS.values())


def rows(cipher: int) -> list[int]:
    """The numbers of the implementations of this cipher, best first."""
    return [which for which, its in enumerate(CIPHER_OF) if its == cipher]


def every(cipher: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("which", rows(cipher), ids=[NAMES[which] for which in rows(cipher)])


def numbered(name: str, cipher: int) -> int:
    return next(which for which in rows(cipher) if NAMES[which] == name)


def oracle(which: int, key: bytes) -> ChaCha20Poly1305 | AESGCM:
    return AESGCM(key) if CIPHER_OF[which] == GCM else ChaCha20Poly1305(key)


def nonce_of(which: int, counter: int) -> bytes:
    """WireGuard's nonce, and for AESGCM that of section 12 of the Noise specification."""
    return bytes(4) + counter.to_bytes(8, "big" if CIPHER_OF[which] == GCM else "little")


def seal(which: int, key: bytes, counter: int, plaintext: bytes) -> bytes:
    out = ffi.new("uint8_t[]", len(plaintext) + TAG)
    assert lib.udpring_aead_seal(which, key, counter, plaintext, len(plaintext), out) == 0
    return bytes(out)


def open_(which: int, key: bytes, counter: int, sealed: bytes) -> bytes:
    """Raises InvalidTag as `cryptography` does. Nothing may have been written then."""
    out = ffi.new("uint8_t[]", b"\xa5" * max(len(sealed) - TAG, 1))
    code = lib.udpring_aead_open(which, key, counter, sealed, len(sealed), out)
    if code:
        assert code == -errno.EBADMSG
        assert set(bytes(out)[:-1]) == {0xA5}  # cffi adds a zero byte at the end
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
    for cipher in CIPHERS:
        assert "openssl" in [NAMES[which] for which in rows(cipher)]
    assert len(set(IDS)) == len(IDS)
    assert len(CIPHERS) == lib.UDPRING_CIPHER_COUNT
    for wrong in (-1, len(CIPHERS)):
        assert lib.udpring_aead_chosen(wrong) == -errno.EINVAL
        assert b"no such cipher" in ffi.string(lib.udpring_aead_why(wrong))
    for which in (-1, len(NAMES), 2**31 - 1):
        assert lib.udpring_aead_name(which) == ffi.NULL
        assert lib.udpring_aead_cipher(which) == -errno.EINVAL
        assert lib.udpring_aead_seal(which, bytes(32), 0, b"", 0, ffi.new("uint8_t[16]")) == -errno.EINVAL
        why = reason()
        assert lib.udpring_aead_selftest(which, why) == -errno.EINVAL
        assert str(which) in reason_text(why)


@every_aead
def test_self_test_passes(which: int) -> None:
    why = reason()
    assert lib.udpring_aead_selftest(which, why) == 0, reason_text(why)


@every(CHACHA)
@pytest.mark.parametrize("vector", VECTORS["aead"], ids=lambda vector: vector["section"])
def test_rfc_8439_aead(which: int, vector: dict[str, str]) -> None:
    check_vector(which, vector)


@every(GCM)
@pytest.mark.parametrize("vector", GCM_VECTORS["aead"], ids=lambda vector: vector["case"])
def test_published_vectors_of_aes_256_gcm(which: int, vector: dict[str, str]) -> None:
    check_vector(which, vector)


def check_vector(which: int, vector: dict[str, str]) -> None:
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


@every(CHACHA)
@pytest.mark.parametrize("vector", VECTORS["stream"], ids=lambda vector: vector["section"])
def test_rfc_8439_key_stream(which: int, vector: dict[str, Any]) -> None:
    """The cipher's own vectors. The AEAD encrypts from block 1 on (2.8), so padding fills the blocks
    before."""
    key, nonce, plaintext = (bytes.fromhex(vector[name]) for name in ("key", "nonce", "plaintext"))
    padding = bytes(64 * (vector["block"] - 1))
    sealed = seal_aad(which, key, nonce, b"", padding + plaintext)
    assert sealed[len(padding) : -TAG].hex() == vector["ciphertext"]
    assert open_aad(which, key, nonce, b"", sealed) == padding + plaintext
    if not any(nonce[:4]):
        assert seal(which, key, int.from_bytes(nonce[4:], "little"), padding + plaintext) == sealed


KEYS = st.binary(min_size=32, max_size=32)
COUNTERS = st.integers(0, 2**64 - 1) | st.sampled_from([0, 2**32 - 1, 2**32, 2**63, 2**64 - 2**13 - 2])
# Lengths around the sizes that implementations treat specially, and the largest inner packet.
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
    sealed = oracle(which, key).encrypt(nonce_of(which, counter), plaintext, None)
    assert seal(which, key, counter, plaintext) == sealed
    assert open_(which, key, counter, sealed) == plaintext


@every_aead
@given(key=KEYS, nonce=st.binary(min_size=12, max_size=12), aad=st.binary(max_size=100), plaintext=PACKETS)
def test_agrees_with_cryptography_on_associated_data(
    which: int, key: bytes, nonce: bytes, aad: bytes, plaintext: bytes
) -> None:
    sealed = oracle(which, key).encrypt(nonce, plaintext, aad)
    assert seal_aad(which, key, nonce, aad, plaintext) == sealed
    assert open_aad(which, key, nonce, aad, sealed) == plaintext


@every_aead
@given(key=KEYS, counter=COUNTERS, plaintext=PACKETS, data=st.data())
def test_any_flipped_bit_is_noticed(
    which: int, key: bytes, counter: int, plaintext: bytes, data: st.DataObject
) -> None:
    sealed = bytearray(oracle(which, key).encrypt(nonce_of(which, counter), plaintext, None))
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(InvalidTag):
        open_(which, key, counter, bytes(sealed))


@every_aead
@given(key=KEYS, counter=COUNTERS, plaintext=PACKETS, data=st.data())
def test_any_other_length_is_noticed(
    which: int, key: bytes, counter: int, plaintext: bytes, data: st.DataObject
) -> None:
    sealed = oracle(which, key).encrypt(nonce_of(which, counter), plaintext, None)
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
    """A keepalive is only a tag. NULL stands for no bytes."""
    key = bytes(range(32))
    out = ffi.new("uint8_t[16]")
    assert lib.udpring_aead_seal(which, key, 9, ffi.NULL, 0, out) == 0
    assert bytes(out) == oracle(which, key).encrypt(nonce_of(which, 9), b"", None)
    assert lib.udpring_aead_open(which, key, 9, out, 16, ffi.NULL) == 0
    assert lib.udpring_aead_open(which, key, 10, out, 16, ffi.NULL) == -errno.EBADMSG
    for length in range(TAG):
        assert lib.udpring_aead_open(which, key, 9, out, length, ffi.NULL) == -errno.EBADMSG


PAGE = mmap.PAGESIZE
PROT_NONE = 0


class Arena:
    """Memory between two inaccessible pages, so that an access beyond its ends crashes."""

    def __init__(self, size: int) -> None:
        pages = -(-size // PAGE) * PAGE
        self._map = mmap.mmap(-1, pages + 2 * PAGE)
        self._whole = ffi.from_buffer(self._map)
        self.end = pages + PAGE
        self.memory = memoryview(self._map)
        base = int(ffi.cast("uintptr_t", self._whole))
        libc = ctypes.CDLL(None, use_errno=True)
        for guard in (base, base + self.end):
            assert libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(PAGE), PROT_NONE) == 0

    def at(self, position: int) -> Any:
        return self._whole + position


def burst(which: int, sealing: bool, source: Any, to: Any, length: int, stride: int, count: int) -> list[int]:
    results = ffi.new("int32_t[]", [99] * max(count, 1))
    key = bytes(range(32))
    code = lib.udpring_aead_burst(which, sealing, key, 7, source, to, length, stride, count, results)
    assert code == 0
    return list(results)[:count]


def check_packet_next_to_guard(which: int, length: int, plain: Arena, sealed: Arena, at_end: bool) -> None:
    """One packet, with its last byte before the guard or its first after the other one. In place in one
    arena."""
    plaintext = bytes((length + 3 * i) & 0xFF for i in range(length))
    size = length + TAG
    there = sealed.end - size if at_end else PAGE
    here = there if plain is sealed else plain.end - length if at_end else PAGE
    plain.memory[here : here + length] = plaintext
    assert burst(which, True, plain.at(here), sealed.at(there), length, 0, 1) == [0]
    expected = oracle(which, bytes(range(32))).encrypt(nonce_of(which, 7), plaintext, None)
    assert sealed.memory[there : there + size] == expected
    if plain is not sealed:
        plain.memory[here : here + length] = bytes(length)
    assert burst(which, False, sealed.at(there), plain.at(here), size, 0, 1) == [0]
    assert plain.memory[here : here + length] == plaintext


@every_aead
@pytest.mark.parametrize("in_place", [True, False], ids=["in-place", "buffer-to-buffer"])
def test_every_length_touches_nothing_beyond_the_packet(which: int, in_place: bool) -> None:
    plain = Arena(2100 + TAG)
    sealed = plain if in_place else Arena(2100 + TAG)
    for length in range(2101):
        for at_end in (True, False):
            check_packet_next_to_guard(which, length, plain, sealed, at_end)


@every_aead
@given(
    length=LENGTHS,
    count=st.integers(0, 40),
    offset=st.integers(0, 63),
    other_offset=st.integers(0, 63),
    gap=st.integers(0, 70),
    in_place=st.booleans(),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_bursts_unaligned_in_place_and_from_buffer_to_buffer(
    which: int,
    length: int,
    count: int,
    offset: int,
    other_offset: int,
    gap: int,
    in_place: bool,
    data: st.DataObject,
) -> None:
    length = length if count <= 3 else min(length, 2100)
    size, stride = length + TAG, length + TAG + gap
    filling = bytes(range(256)) * (stride * count // 256 + 2)
    source = bytearray(64 + stride * count + TAG)
    source[offset : offset + stride * count] = filling[: stride * count]
    sealed = source if in_place else bytearray(b"\x5a" * len(source))
    out = offset if in_place else other_offset
    before = bytes(source)
    expected = bytearray(sealed)
    from_, to = ffi.from_buffer(source), ffi.from_buffer(sealed)
    assert burst(which, True, from_ + offset, to + out, length, stride, count) == [0] * count
    aead = oracle(which, bytes(range(32)))
    for i in range(count):
        text = before[offset + i * stride :][:length]
        expected[out + i * stride : out + i * stride + size] = aead.encrypt(
            nonce_of(which, 7 + i), text, None
        )
    assert sealed == expected
    broken = data.draw(st.sets(st.integers(0, max(count - 1, 0)), max_size=count))
    for i in broken:
        bit = data.draw(st.integers(0, 8 * size - 1))
        sealed[out + i * stride + bit // 8] ^= 1 << bit % 8
    results = burst(which, False, to + out, from_ + offset, size, stride, count)
    assert results == [-errno.EBADMSG if i in broken else 0 for i in range(count)]
    for i in set(range(count)) - broken:
        assert source[offset + i * stride :][:length] == before[offset + i * stride :][:length]


@every_aead
def test_threads_do_not_disturb_each_other(which: int) -> None:
    """Each thread has its own keys. There are more threads than CPUs, and new ones follow those that end."""
    plaintext = bytes(range(256)) * 5

    def work(number: int) -> int:
        key = bytes([number]) * 32
        sealed = oracle(which, key).encrypt(nonce_of(which, number), plaintext, None)
        good = 0
        for _ in range(100):
            good += seal(which, key, number, plaintext) == sealed
            good += open_(which, key, number, sealed) == plaintext
        return good

    for _ in range(3):
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert list(pool.map(work, range(8))) == [200] * 8


@every_aead
def test_what_it_costs_is_measured(which: int) -> None:
    for sealing in (0, 1):
        small = bench.udpring_aead_bench(which, sealing, 0, 1, 2000)
        large = bench.udpring_aead_bench(which, sealing, 65535, 64, 2000)
        assert 0 < small < large
    for length, a_call, rounds in ((65536, 1, 1), (0, 0, 1), (0, 65, 1), (0, 1, 0)):
        assert bench.udpring_aead_bench(which, 1, length, a_call, rounds) == -errno.EINVAL
    assert bench.udpring_aead_bench(len(NAMES), 1, 0, 1, 1) == -errno.ENOTSUP


@every_cipher
def test_the_self_tests_own_vectors_come_from_another_implementation(cipher: int) -> None:
    """Recomputes the tags in aead_selftest.c by the rule in its comment."""
    source = (TOP / "udpring" / "native" / "tunnel" / "crypto" / "aead_selftest.c").read_text()
    packets = re.findall(
        r"\{ (\d+), UINT64_C\((0x[0-9a-f]+)\),\s+\{ \{ ([^}]*) \},\s+\{ ([^}]*) \} \} \}", source
    )
    assert len(packets) > 20
    which = rows(cipher)[0]
    aead = oracle(which, bytes(range(0x80, 0xA0)))
    for length, counter, tag in ((int(row[0]), int(row[1], 16), row[2 + cipher]) for row in packets):
        plaintext = bytes((7 * i + length) & 0xFF for i in range(length))
        made = aead.encrypt(nonce_of(which, counter), plaintext, None)[-TAG:]
        assert made == bytes(int(byte, 16) for byte in tag.split(", ")), length


def chosen_with(name: str | None, libraries: Path | None = None, *, cipher: int = CHACHA) -> tuple[int, str]:
    """The choice of a new process with these values of UDPRING_AEAD and LD_LIBRARY_PATH."""
    program = (
        "from udpring._native import ffi, lib\n"
        f"print(lib.udpring_aead_chosen({cipher}), ffi.string(lib.udpring_aead_why({cipher})).decode())"
    )
    environment = {key: value for key, value in os.environ.items() if key != "UDPRING_AEAD"}
    if name is not None:
        environment["UDPRING_AEAD"] = name
    if libraries is not None:
        environment["LD_LIBRARY_PATH"] = str(libraries)
    run = subprocess.run(
        [sys.executable, "-P", "-c", program],
        env=environment,
        cwd=TOP,
        capture_output=True,
        text=True,
        check=True,
    )
    number, why = run.stdout.strip().split(" ", 1)
    return int(number), why


@every_cipher
@pytest.mark.parametrize("name", [None, ""])
def test_the_first_that_works_is_chosen(name: str | None, cipher: int) -> None:
    which, why = chosen_with(name, cipher=cipher)
    assert which in rows(cipher)
    assert f"{NAMES[which]}: the first that passed its self-test" in why


def test_build_has_the_requested_libraries() -> None:
    """UDPRING_IPSECMB means the same as in the build: scripts/test sets it. CI must have the header."""
    header = Path("/usr/include/intel-ipsec-mb.h")
    if os.environ.get("UDPRING_IPSECMB") == "0":
        assert NAMES == ["openssl"] * 2
    elif platform.machine() == "x86_64" and (header.exists() or os.environ.get("CI")):
        assert NAMES == ["ipsec-mb", "openssl"] * 2


without_ipsecmb = pytest.mark.skipif("ipsec-mb" not in NAMES, reason="this build is without ipsec-mb")


def with_ipsecmb(test: Callable[..., None]) -> Callable[..., None]:
    """A test of ipsec-mb. Runs without it deselect the test; hosts without it skip the test."""
    return pytest.mark.ipsecmb(without_ipsecmb(test))


def other_ipsecmb(folder: Path, *options: str) -> Path:
    """A folder with the library of other_ipsecmb.c under the name that the core loads."""
    source = Path(__file__).with_name("other_ipsecmb.c")
    compiler = [*shlex.split(os.environ.get("CC", "cc")), "-shared", "-fPIC", *options]
    environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    library = folder / "libIPSec_MB.so.1"
    subprocess.run([*compiler, source, "-o", library, "-ldl"], env=environment, check=True)
    return folder


def real_ipsecmb() -> str:
    """The path of the real library."""
    find = "import ctypes; ctypes.CDLL('libIPSec_MB.so.1'); print(open('/proc/self/maps').read())"
    maps = subprocess.run(
        [sys.executable, "-P", "-c", find], capture_output=True, text=True, check=True
    ).stdout
    real = re.search(r"(/\S*libIPSec_MB\.so\S*)", maps)
    assert real is not None
    return real.group(1)


@with_ipsecmb
def test_ipsec_mb_without_avx512_only_when_forced(tmp_path: Path) -> None:
    flags = Path("/proc/cpuinfo").read_text()
    if " avx2" not in flags:
        pytest.skip("this CPU has no AVX2")
    folder = other_ipsecmb(tmp_path, f'-DREAL="{real_ipsecmb()}"')
    which, why = chosen_with(None, folder)
    assert NAMES[which] == "openssl"
    assert "ipsec-mb: this CPU lacks AVX-512" in why
    assert chosen_with("ipsec-mb", folder) == (
        numbered("ipsec-mb", CHACHA),
        "ipsec-mb: forced by UDPRING_AEAD",
    )
    if " aes" in flags and " pclmulqdq" in flags:  # AES-256-GCM gains without AVX-512 too
        which, why = chosen_with(None, folder, cipher=GCM)
        assert (which, why) == (
            numbered("ipsec-mb", GCM),
            "ipsec-mb: the first that passed its self-test",
        )


@with_ipsecmb
def test_without_aes_instructions_ipsec_mb_does_no_aes(tmp_path: Path) -> None:
    """Even when forced: its table look-ups would leak the key through the cache."""
    if " avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this CPU has no AVX2")
    folder = other_ipsecmb(tmp_path, f'-DREAL="{real_ipsecmb()}"', "-DNO_AES")
    which, why = chosen_with(None, folder, cipher=GCM)
    assert which == numbered("openssl", GCM)
    assert "ipsec-mb: this CPU lacks AES-NI" in why
    which, why = chosen_with("ipsec-mb", folder, cipher=GCM)
    assert which == -errno.ENOTSUP


@with_ipsecmb
@every_cipher
def test_foreign_library_is_left_out(tmp_path: Path, cipher: int) -> None:
    """A different library with the right name."""
    folder = other_ipsecmb(tmp_path, "-DNOTHING")
    which, why = chosen_with(None, folder, cipher=cipher)
    assert which == numbered("openssl", cipher)
    assert "lacks alloc_mb_mgr" in why
    which, why = chosen_with("ipsec-mb", folder, cipher=cipher)
    assert which == -errno.ENOTSUP
    assert "lacks alloc_mb_mgr" in why


@every_aead
def test_the_environment_forces_one(which: int) -> None:
    expected = which, f"{NAMES[which]}: forced by UDPRING_AEAD"
    assert chosen_with(NAMES[which], cipher=CIPHER_OF[which]) == expected


@every_cipher
def test_forcing_one_that_is_not_there_says_so(cipher: int) -> None:
    which, why = chosen_with("rot13", cipher=cipher)
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
        [
            *compiler,
            "-Daead_openssl=sound_aead",
            "-Daead_openssl_gcm=sound_gcm",
            "-c",
            native / "tunnel" / "crypto" / "aead_openssl.c",
            "-o",
            sound,
        ],
        check=True,
    )
    sources = [
        native / "base.c",
        native / "secret.c",
        native / "tunnel" / "crypto" / "aead.c",
        native / "tunnel" / "crypto" / "aead_selftest.c",
    ]
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
        ("no_tag", "it accepted a tampered copy of"),
        ("short_counter", "sealing"),
        ("last_of_burst", "sealing"),
        ("late_in_burst", "a call"),
        ("wrong_text", "the opened bytes of"),
        ("ignores_aad", "vector"),
    ],
)
@every_cipher
def test_failed_self_test_excludes_implementation(broken: Path, defect: str, said: str, cipher: int) -> None:
    environment = {
        key: value for key, value in os.environ.items() if key not in ("UDPRING_AEAD", "LD_PRELOAD")
    }
    run = subprocess.run(
        [broken, defect, str(cipher)], env=environment, capture_output=True, text=True, check=True
    )
    chosen, why = run.stdout.splitlines()
    assert chosen == "none"
    vector = {CHACHA: "RFC 8439 2.8.2", GCM: "McGrew and Viega's test case 16"}[cipher]
    assert (vector if said == "vector" else said) in why


@every_cipher
def test_the_sound_one_is_used_in_the_same_program(broken: Path, cipher: int) -> None:
    environment = {
        key: value for key, value in os.environ.items() if key not in ("UDPRING_AEAD", "LD_PRELOAD")
    }
    run = subprocess.run(
        [broken, "none", str(cipher)], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines()[0] == "openssl"
