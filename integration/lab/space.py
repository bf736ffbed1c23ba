"""A network namespace as a test uses it: sockets opened in it, commands run in it."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from lab import processes

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def until(condition: Callable[[], T], what: str, timeout: float = 30.0, interval: float = 0.05) -> T:
    """Waits until ``condition()`` holds and returns its value. Raises AssertionError with ``what``
    otherwise."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout} s: {what} (last: {value!r})"
        time.sleep(interval)


class Space:
    """One network namespace, with its name under /run/netns and its addresses from the topology."""

    def __init__(self, name: str, ipv4: list[str] | None = None, ipv6: list[str] | None = None) -> None:
        self.name = name
        self.path = Path("/run/netns") / name
        self.ipv4s = ipv4 or []
        self.ipv6s = ipv6 or []

    def __repr__(self) -> str:
        return f"<Space {self.name}>"

    @property
    def ipv4(self) -> str:
        return self.ipv4s[0]

    @property
    def ipv6(self) -> str:
        return self.ipv6s[0]

    def address(self, family: int) -> str:
        """The node's first address of IP version 4 or 6."""
        return self.ipv4 if family == 4 else self.ipv6

    def call(self, function: Callable[[], T]) -> T:
        """Runs ``function()`` in a new thread that has entered the namespace. Its sockets stay in there."""
        result: list[T] = []
        failure: list[BaseException] = []

        def enter() -> None:
            try:
                fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    if _libc.setns(fd, CLONE_NEWNET):
                        number = ctypes.get_errno()
                        raise OSError(number, os.strerror(number), str(self.path))
                finally:
                    os.close(fd)
                result.append(function())
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return result[0]

    def socket(self, address: str, kind: int, port: int = 0) -> socket.socket:
        """A socket of the namespace, of the family of ``address``, bound to it, with a time-out of 30 s."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET

        def make() -> socket.socket:
            sock = socket.socket(family, kind)
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind((address, port))
            except BaseException:
                sock.close()
                raise
            return sock

        sock = self.call(make)
        sock.settimeout(30.0)
        return sock

    def wait_for_address(self, address: str) -> None:
        """Waits until the kernel delivers to ``address``. For IPv6 a work item starts delivery shortly after
        the address was added or its link set up."""
        if ":" in address:
            # A preloaded address sanitiser would end ip: Debian 12's has an overlapping strncpy here.
            show = ("env", "-u", "LD_PRELOAD", "ip", "-6", "route", "show", "table", "local", address)
            until(lambda: self.run(*show).stdout.strip(), f"{address} is local", interval=0.01)

    def wait_for_ipv6(self) -> None:
        """Waits until all links that are up have their IPv6 routes: a link-local address on each Ethernet
        link, and delivery to each address. Both come shortly after the link or the address."""

        def settled() -> bool:
            links = json.loads(self.run(*show, "-json", "addr").stdout)
            routes = self.run(*show, "route", "show", "table", "local").stdout
            for link in links:
                if "LOWER_UP" not in link["flags"]:
                    continue
                held = [each["local"] for each in link["addr_info"]]
                if "BROADCAST" in link["flags"] and not any(each.startswith("fe80:") for each in held):
                    return False
                if not all(f"local {each} dev {link['ifname']} " in routes for each in held):
                    return False
            return True

        show = ("env", "-u", "LD_PRELOAD", "ip", "-6")
        until(settled, f"the IPv6 addresses of {self.name} are delivered to", interval=0.01)

    def argv(self, *command: str) -> list[str]:
        """The command line that runs ``command`` inside."""
        return ["nsenter", f"--net={self.path}", "--", *command]

    def run(
        self, *command: str, check: bool = True, timeout: float = 30.0, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs ``command`` inside to its end. Raises AssertionError with all its output on failure."""
        done = subprocess.run(
            self.argv(*command), input=stdin, capture_output=True, text=True, timeout=timeout, check=False
        )
        if check:
            assert done.returncode == 0, (
                f"{self.name}: {' '.join(command)[:200]} exited {done.returncode}: {done.stdout}{done.stderr}"
            )
        return done

    def ip(self, *args: str, check: bool = True) -> str:
        """Runs ``ip ARGS`` in this namespace. Returns standard output."""
        done = subprocess.run(
            ["ip", "-n", self.name, *args], capture_output=True, text=True, timeout=30, check=False
        )
        if check:
            assert done.returncode == 0, f"{self.name}: ip {' '.join(args)}: {done.stderr}"
        return done.stdout

    def pids(self) -> list[int]:
        """The processes in this network namespace."""
        done = subprocess.run(
            ["ip", "netns", "pids", self.name], capture_output=True, text=True, timeout=30, check=False
        )
        return [int(pid) for pid in done.stdout.split()]

    def leaders(self) -> list[int]:
        """Those without a parent among them: a confined node has a broker process as its child."""
        every = {pid: processes.parent(pid) for pid in self.pids()}
        return [pid for pid, parent in every.items() if parent not in every]

    def nft(self, rules: str) -> None:
        """Applies an nftables script inside."""
        self.run("nft", "-f", "-", stdin=rules)

    def nft_counter(self, table: str, name: str) -> int:
        """The packets counted by a named nftables counter (family inet)."""
        words = self.run("nft", "list", "counter", "inet", table, name).stdout.split()
        return int(words[words.index("packets") + 1])
