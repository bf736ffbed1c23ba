"""Opens planes and gives them commands while the k-th call of the core fails, for all k.

Run as a program, with faults.c, in its own network namespace:

    failing_plane.py TIER WORKERS ERRNO CALLS...      prints one JSON object: step -> calls that failed

Each step ends in one of two ways: with a negative code (and a reason, if there is room for one), or with
success. The last run of a step is without a fault and must succeed. No descriptor or thread may stay.
"""

from __future__ import annotations

import errno
import json
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import single_commands
from faults import Faults

from udpring._native import ffi, lib, reason, reason_text

K_MOST = 4000
KEYPAIRS_MOST = 500
KEYS = bytes(range(64))


def held() -> tuple[int, int]:
    """The number of descriptors and threads of this process."""
    own = Path("/proc/self")
    return len(list((own / "fd").iterdir())), len(list((own / "task").iterdir()))


def expect(before: tuple[int, int], what: str) -> None:
    """Waits, because a joined thread may be visible for a moment."""
    deadline = time.monotonic() + 20
    while held() != before:
        assert time.monotonic() < deadline, f"{what}: descriptors and threads {before} became {held()}"
        time.sleep(0.01)


def ignore(_: object) -> None:
    """Accepts either code: the thing to undo exists only after a success."""


class Runner:
    def __init__(self, tier: int, workers: int, error: int, calls: list[str]) -> None:
        self.tier, self.workers, self.error, self.calls = tier, workers, error, calls
        self.faults = Faults.inherited()
        self.failed: dict[str, int] = {}

    def open(self, packets: bool = False) -> tuple[Any, int, str]:
        """``packets``: without a device, for packets of the program."""
        options = ffi.new(
            "struct udpring_plane_options *",
            {"tier": self.tier, "mtu": 1420, "workers": self.workers, "name": b"faulty%d"},
        )
        if packets:
            options.flags = lib.UDPRING_PLANE_PACKETS
            options.packets_out_bytes = options.packets_in_bytes = lib.UDPRING_PACKETS_BYTES_MIN
        code, why = ffi.new("int32_t *"), reason()
        plane = lib.udpring_plane_open(options, code, why)
        return plane, code[0], reason_text(why)

    def for_all_k(self, step: str, attempt: Callable[[], int], *, settle: Callable[[], None]) -> None:
        """Repeats until a run in which nothing failed. ``attempt`` returns 0 or a code. ``settle`` undoes
        it."""
        for k in range(K_MOST):
            self.faults.set(self.calls, self.error, skip=k)
            code = attempt()
            self.faults.clear()
            failed = self.faults.failed(*self.calls)
            assert code <= 0 or step == "keypair", (step, k, code)
            if not failed:
                assert code >= 0, f"{step}: {errno.errorcode[-code]} though nothing failed"
            settle()
            self.failed[step] = k + failed
            if not failed:
                return
        raise AssertionError(f"{step}: more than {K_MOST} calls")

    # ---- the steps ----

    def start_up(self, step: str, packets: bool = False) -> None:
        opened: list[Any] = []

        def attempt() -> int:
            plane, code, why = self.open(packets)
            if plane != ffi.NULL:
                opened.append(plane)
                return 0
            assert code < 0
            assert why, f"{step} failed with {errno.errorcode[-code]} and no word"
            return int(code)

        def settle() -> None:
            while opened:
                lib.udpring_plane_close(opened.pop())
            expect(before, step)

        warm, _, _ = self.open(packets)
        lib.udpring_plane_close(warm)  # the first open makes things that stay for the process
        before = held()
        self.for_all_k(step, attempt, settle=settle)

    def commands(self) -> None:
        before = held()
        plane, code, why = self.open()
        assert plane != ffi.NULL, (code, why)
        peer, index = ffi.new("uint32_t *"), ffi.new("uint32_t *")

        def remove() -> None:
            lib.udpring_plane_peer_remove(plane, peer[0])

        for _ in range(9):  # the tables grow now and then
            others = ffi.new("uint32_t *")
            self.for_all_k("peer", lambda: lib.udpring_plane_peer_add(plane, peer), settle=remove)
            assert lib.udpring_plane_peer_add(plane, others) == 0
        assert lib.udpring_plane_peer_add(plane, peer) == 0
        address = ffi.new("struct udpring_address *", {"family": socket.AF_INET, "port": 9})
        ffi.memmove(address.ip, socket.inet_aton("127.0.0.1"), 4)
        assert lib.udpring_plane_endpoint(plane, peer[0], address) == 0
        self.prefixes(plane, peer[0])
        self.for_all_k(
            "index",
            lambda: lib.udpring_plane_indices(plane, peer[0], index, 1),
            settle=lambda: ignore(single_commands.index_release(plane, index[0])),
        )
        self.keypair(plane, peer[0])
        message = bytes(148)
        self.for_all_k(
            "send",
            lambda: single_commands.send(plane, peer[0], message, 148, 0, ffi.NULL, ffi.NULL, 0, ffi.NULL),
            settle=lambda: None,
        )
        self.for_all_k("keepalive", lambda: single_commands.keepalive(plane, peer[0]), settle=lambda: None)
        self.bind(plane)
        lib.udpring_plane_close(plane)
        expect(before, "all commands")

    def prefixes(self, plane: Any, peer: int) -> None:
        many = ffi.new("struct udpring_prefix[]", 64)
        for position in range(64):
            many[position].family, many[position].cidr, many[position].peer = socket.AF_INET, 32, peer
            ffi.memmove(many[position].ip, bytes([10, 0, position % 7, position]), 4)
        done = ffi.new("uint32_t *")
        self.for_all_k(
            "prefixes",
            lambda: lib.udpring_plane_prefixes(plane, many, 64, done),
            settle=lambda: ignore(lib.udpring_plane_prefixes_clear(plane, peer)),
        )

    def keypair(self, plane: Any, first: int) -> None:
        """Each of another peer until a call is made: memory for keys is mapped for many at once, and that of
        a keypair serves the next one of its peer."""
        peer, index = ffi.new("uint32_t *", first), ffi.new("uint32_t *")

        def attempt() -> int:
            code: int = lib.udpring_plane_indices(plane, peer[0], index, 1)
            if code:
                return code
            now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            code = single_commands.keypair(plane, peer[0], 0, KEYS, index[0], 7, 1, now)
            if code < 0:
                assert single_commands.index_release(plane, index[0]) == 0, "a failed key kept its index"
            return code

        for _ in range(KEYPAIRS_MOST):
            self.for_all_k("keypair", attempt, settle=lambda: None)
            if self.failed["keypair"]:
                break
            assert lib.udpring_plane_peer_add(plane, peer) == 0

    def bind(self, plane: Any) -> None:
        port, why = ffi.new("uint16_t *"), reason()

        def attempt() -> int:
            port[0] = 0
            before = lib.udpring_plane_port(plane)
            code: int = lib.udpring_plane_bind(plane, port, 0, why)
            assert (lib.udpring_plane_port(plane) == before) == (code < 0)
            return code

        self.for_all_k("bind", attempt, settle=lambda: None)


def main(arguments: list[str]) -> None:
    tier, workers, error, *calls = arguments
    runner = Runner(int(tier), int(workers), int(error), calls)
    runner.start_up("start-up")
    runner.start_up("start-up without device", packets=True)
    runner.commands()
    print(json.dumps(runner.failed))


if __name__ == "__main__":
    main(sys.argv[1:])
