"""The kernel runs the eBPF program that chooses a queue of the TUN device (native/tunnel/tun/tun_steer.c)."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
from offload_model import TCP, Flow
from packet_streams import ends, ports, random_plans, stream

# BPF_PROG_TEST_RUN (bpf(2)) takes frames.
PROGRAM = """
import ctypes, os, sys
from udpring._native import lib
PROG_TEST_RUN, SYS_BPF = 10, {"x86_64": 321, "aarch64": 280}[os.uname().machine]
class Attributes(ctypes.Structure):
    _fields_ = [("program", ctypes.c_uint32), ("value", ctypes.c_uint32),
                ("size", ctypes.c_uint32), ("size_out", ctypes.c_uint32),
                ("data", ctypes.c_uint64), ("data_out", ctypes.c_uint64), ("repeat", ctypes.c_uint32),
                ("rest", ctypes.c_uint8 * 100)]
if error := lib.udpring_steering_load():
    sys.exit(f"the program cannot be loaded: {os.strerror(-error)}")
(program,) = [fd for fd in os.listdir("/proc/self/fd")
              if os.path.lexists(f"/proc/self/fd/{fd}") and "bpf-prog" in os.readlink(f"/proc/self/fd/{fd}")]
libc = ctypes.CDLL(None, use_errno=True)
for line in sys.stdin:
    packet = bytes.fromhex(line)
    frame = bytes(12) + (b"\\x86\\xdd" if packet[0] >> 4 == 6 else b"\\x08\\x00") + packet
    room = ctypes.create_string_buffer(frame, len(frame))
    asked = Attributes(program=int(program), size=len(frame), data=ctypes.addressof(room), repeat=1)
    if libc.syscall(SYS_BPF, PROG_TEST_RUN, ctypes.byref(asked), ctypes.sizeof(asked)):
        sys.exit(f"BPF_PROG_TEST_RUN: {os.strerror(ctypes.get_errno())}")
    print(asked.value)
"""


def queues(packets: list[bytes]) -> list[int]:
    """What the program returns for each. The kernel takes it modulo the number of queues."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM],
        input="".join(f"{packet.hex()}\n" for packet in packets),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if "cannot be loaded" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert not done.stderr
    return [int(word) for word in done.stdout.split()]


def test_each_flow_has_one_queue() -> None:
    """The flow of TCP, the addresses of all other packets, also of TCP that ends before its ports."""
    generator = random.Random(7)
    packets = [
        packet
        for hosts in (Flow("10.77.1.9", "10.77.2.9"), Flow("fd77:1::9", "fd77:2::9", label=0x12345))
        for plan in (random_plans(generator, 200),)
        for packet in stream(plan, generator, hosts, hosts)
    ]
    of: dict[object, set[int]] = {}
    for packet, queue in zip(packets, queues(packets), strict=True):
        flow = ports(packet)
        of.setdefault((ends(packet)[0], flow if flow and flow[0] == TCP else None), set()).add(queue)
    assert all(len(found) == 1 for found in of.values()), of
    assert len(set.union(*of.values())) > 5


@pytest.mark.parametrize("length", [0, 1, 3, 4, 20])
@pytest.mark.parametrize(("version", "options"), [(4, 0), (4, 4), (4, 40), (6, 0)])
def test_truncated_tcp_goes_with_its_addresses(version: int, length: int, options: int) -> None:
    if version == 4:
        begin = (
            bytes([0x45 + options // 4])
            + bytes(8)
            + bytes([TCP])
            + bytes(2)
            + bytes(range(1, 9))
            + bytes(options)
        )
        other = begin[:9] + b"\x01" + begin[10:]
    else:
        begin = bytes([0x60]) + bytes(5) + bytes([TCP, 64]) + bytes(range(1, 33))
        other = begin[:6] + b"\x3b" + begin[7:]
    of_tcp, of_others = queues([begin + bytes(range(1, length + 1)), other])
    assert (of_tcp == of_others) == (length < 4)
