"""Session keys in a process's memory, searched from outside: present while in use, gone when erased."""

from __future__ import annotations

import base64
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import SUBJECT, Rig
from lab.unprivileged import environment

from udpring._native import ffi, lib
from udpring.tunnel.ciphers import CIPHER_NUMBERS
from udpring.wireguard.cipher import Cipher

# The key comes masked and is unmasked in place, so Python holds no copy of it.
HOLDER = """
import sys, time
from udpring.tunnel.plane import Plane
from udpring.wireguard.cipher import Cipher
cipher, way = Cipher(sys.argv[2]), sys.argv[3]
plane = Plane(sys.argv[1])
peer = plane.peer_add()
keys = [bytearray.fromhex(text) for text in sys.stdin.readline().split()]
for key in keys:
    for position in range(32):
        key[position] ^= 0xFF
index = plane.index_new(peer)
birth = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
batch = plane.batch()
batch.keypair(peer, *keys, local_index=index, remote_index=7, initiator=True, birth=birth, cipher=cipher)
assert batch.run() == [0]
for key in keys:
    key[:] = bytes(32)
print("installed", flush=True)
sys.stdin.readline()
if way == "close":
    plane.close()
elif way == "peer":
    plane.peer_remove(peer)
else:
    batch.keys_erase(peer)
    assert batch.run() == [0]
print("erased", flush=True)
sys.stdin.readline()
"""


def spans(pid: int, *, dumped: bool) -> Iterator[tuple[int, int]]:
    """The writable memory of a process. ``dumped``: without what a core dump leaves out (the flag dd of
    proc(5)), as gcore(1) does it."""
    text = Path(f"/proc/{pid}/smaps").read_text()
    pattern = r"^([0-9a-f]+)-([0-9a-f]+) rw(?:.*\n)(?:[A-Z].*\n)*?VmFlags:(.*)$"
    for begin, end, flags in re.findall(pattern, text, re.MULTILINE):
        if not (dumped and "dd" in flags.split()):
            yield int(begin, 16), int(end, 16)


def found(pid: int, keys: list[bytes], *, dumped: bool = False) -> int:
    """How often one of the keys occurs there."""
    count = 0
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for begin, end in spans(pid, dumped=dumped):
            memory.seek(begin)
            try:
                held = memory.read(end - begin)
            except OSError:
                continue  # rings and other device memory
            count += sum(held.count(key) for key in keys)
    return count


def is_the_core_s_own(cipher: str) -> bool:
    """Whether the keys of this cipher lie in memory of the core, and not in OpenSSL's."""
    number = CIPHER_NUMBERS[Cipher(cipher)]
    return b"ipsec" in ffi.string(lib.udpring_aead_name(lib.udpring_aead_chosen(number)))


@pytest.mark.parametrize("way", ["keys", "peer", "close"])
@pytest.mark.parametrize("cipher", ["chacha20-poly1305", "aes-256-gcm"])
def test_erased_session_keys_are_nowhere_in_memory(rig: Rig, cipher: str, way: str) -> None:
    keys = [secrets.token_bytes(32) for _ in range(2)]
    space = rig.topology()["a"]
    holder = subprocess.Popen(
        space.argv(sys.executable, "-P", "-c", HOLDER, f"{rig.prefix}k", cipher, way),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    try:
        assert holder.stdin
        assert holder.stdout
        masked = " ".join(bytes(byte ^ 0xFF for byte in key).hex() for key in keys)
        holder.stdin.write(masked + "\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "installed\n"
        assert found(holder.pid, keys) >= 2, "the search finds keys that are there"
        if is_the_core_s_own(cipher):
            assert found(holder.pid, keys, dumped=True) == 0
        holder.stdin.write("\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "erased\n"
        assert found(holder.pid, keys) == 0
    finally:
        holder.communicate("\n", timeout=30)
    assert holder.returncode == 0


PEERS = 300


@pytest.mark.parametrize("aead", ["", "openssl"])
def test_no_key_gets_into_a_core_dump(rig: Rig, aead: str) -> None:
    """Static, preshared and session keys, also of peers that come after the start, in whatever form."""
    program = SUBJECT.with_env(UDPRING_AEAD=aead) if aead else SUBJECT
    tunnel = rig.tunnel((program, SUBJECT), psk=True)
    tunnel.ping()
    secret = [base64.b64decode(tunnel.a.private_key)]
    preshared = [secrets.token_bytes(32) for _ in range(PEERS)]
    lines = ["[Interface]", f"PrivateKey = {tunnel.a.private_key}"]
    lines += [
        f"[Peer]\nPublicKey = {base64.b64encode(secrets.token_bytes(32)).decode()}\n"
        f"PresharedKey = {base64.b64encode(key).decode()}"
        for key in preshared
    ]
    file = rig.directory / "peers.conf"
    file.write_text("\n".join(lines) + "\n")
    tunnel.a.wg("addconf", tunnel.a.interface, str(file))
    tunnel.ping()
    process = tunnel.a.process
    assert process
    keys = [*secret, *preshared[::10]]
    keys += [key.hex().encode() for key in keys]
    assert found(process.pid, keys) >= PEERS // 10, "the search finds keys that are there"
    assert found(process.pid, keys, dumped=True) == 0
