"""Session keys in a process's memory, searched from outside: present while in use, gone when erased."""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from lab import Rig
from lab.unprivileged import environment

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


def found(pid: int, keys: list[bytes]) -> int:
    """How often one of the keys occurs in writable memory of the process."""
    count = 0
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if span is None:
                continue
            begin, end = int(span[1], 16), int(span[2], 16)
            memory.seek(begin)
            try:
                held = memory.read(end - begin)
            except OSError:
                continue  # rings and other device memory
            count += sum(held.count(key) for key in keys)
    return count


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
        holder.stdin.write("\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == "erased\n"
        assert found(holder.pid, keys) == 0
    finally:
        holder.communicate("\n", timeout=30)
    assert holder.returncode == 0
