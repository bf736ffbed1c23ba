"""A program compatible with wireguard-go under measurement: its command, process and resource usage."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from udpring.errors import ConfigError, HostError, UdpringError
from udpring.tunnel.uapi_client import UapiClient
from udpring.wireguard.cipher import Cipher
from udpring_tools.bench import usage
from udpring_tools.bench.interpreter import module_argv
from udpring_tools.bench.space import Entered, Space

__all__ = ["NodeProcess", "Program", "distinct"]

START_WAIT = 15.0
"""Seconds until a program's UAPI socket must answer."""
STOP_WAIT = 10.0
UAPI_WAIT = 60.0
"""For one answer. Some benchmarks set 10 000 peers at once."""
_INSIDE = re.compile(r"inside of process (\d+)")
_UP = re.compile(r"is up: tier (\S+?)(?: \((.*)\))?, AEAD (.+), (\d+) workers?, UDP port")


@dataclass(frozen=True, slots=True)
class Program:
    """The command for an interface: ``argv -f IFACE``. ``env`` is added to the environment. ``cipher``:
    configured on both nodes; only udpring has others than the default. ``elsewhere``: the interface is in
    namespaces of the program's own, which its log names."""

    name: str
    argv: tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    cipher: Cipher = Cipher.CHACHA20_POLY1305
    elsewhere: bool = False

    @classmethod
    def ours(
        cls,
        tier: str | None = None,
        cipher: Cipher = Cipher.CHACHA20_POLY1305,
        workers: int | None = None,
        variant: str = "",
    ) -> Program:
        """``udpring-wg`` of this installation, with a given tier or the best that works, and a given number
        of workers or its default. It logs verbosely (lines per session, none per packet), which shows its
        choices. ``variant``: added to the name if there are several variants of udpring."""
        forced = {"LOG_LEVEL": "verbose", "UDPRING_TIER": tier, "UDPRING_WORKERS": workers and str(workers)}
        env = tuple((name, value) for name, value in forced.items() if value)
        name = "udpring" if cipher is Cipher.CHACHA20_POLY1305 else f"udpring {cipher}"
        return cls(f"{name} {variant}".rstrip(), tuple(module_argv("udpring.cli.wg")), env, cipher)

    @classmethod
    def variants(
        cls, tiers: Sequence[str | None], ciphers: Sequence[Cipher], workers: Sequence[int | None]
    ) -> list[Program]:
        """udpring in each combination, the default first. Names contain the settings that differ."""
        made = []
        for cipher in ciphers:
            for tier in tiers:
                for number in workers:
                    parts = [str(tier)] if len(tiers) > 1 else []
                    parts += [f"workers={number}"] if len(workers) > 1 else []
                    made.append(cls.ours(tier, cipher, number, " ".join(parts)))
        return made

    @classmethod
    def rootless(cls, device: str) -> Program:
        """A rootless node of this installation, attached to this device."""
        argv = module_argv("udpring_tools.bench.rootless_node", device)
        return replace(cls.ours(variant=f"rootless {device}"), argv=tuple(argv), elsewhere=True)

    @classmethod
    def parse(cls, text: str) -> Program:
        """From a command line, split like in a shell. Raises ConfigError for a malformed text, HostError if
        the program is not installed."""
        try:
            words = shlex.split(text)
        except ValueError as wrong:
            raise ConfigError(f"not a command line: {wrong}", file="--against", text=text) from None
        if not words:
            raise ConfigError("names no program", file="--against", text=text)
        found = shutil.which(words[0])
        if found is None:
            raise HostError(f"{words[0]} is not installed", cure="install it, or give the path of a program")
        return cls(Path(words[0]).name, (found, *words[1:]), (("LOG_LEVEL", "error"),))


def distinct(programs: list[Program]) -> list[Program]:
    """The same programs with repeated names numbered: ``wireguard-go``, ``wireguard-go (2)``."""
    seen: dict[str, int] = {}
    named = []
    for program in programs:
        count = seen[program.name] = seen.get(program.name, 0) + 1
        name = program.name if count == 1 else f"{program.name} ({count})"
        named.append(replace(program, name=name))
    return named


class NodeProcess:
    """One running program with its interface in a namespace. ``tier``, ``workers`` and ``aead`` come from
    udpring's log. None for other programs.

    Raises HostError if it does not start, with its last output.
    """

    def __init__(self, space: Space, program: Program, interface: str) -> None:
        self.space = space
        self.program = program
        self.interface = interface
        self.uapi = UapiClient(interface, timeout=UAPI_WAIT)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        foreground = {"WG_PROCESS_FOREGROUND": "1", **dict(program.env)}
        self._process = space.spawn(*program.argv, "-f", interface, stderr=self._log, env=foreground)
        try:
            self._wait_until_it_answers()
        except BaseException:
            self.close()
            raise
        said = _UP.search(self._words())
        self.tier: str | None = said[1] if said else None
        self.tier_reason: str | None = said[2] or "" if said else None
        # Of all ciphers: "chacha20-poly1305 by openssl, aes-256-gcm by openssl".
        libraries = dict(each.split(" by ", 1) for each in said[3].split(", ")) if said else {}
        self.workers: int | None = int(said[4]) if said else None
        self.aead: str | None = libraries.get(str(program.cipher))
        within = _INSIDE.search(self._words())
        #: Where its interface is.
        self.inside = Entered(space, int(within[1])) if within else space

    def facts(self) -> dict[str, str | int | None]:
        """The program's choices, for the JSON."""
        return {
            "tier": self.tier,
            "tier_reason": self.tier_reason,
            "workers": self.workers,
            "aead": self.aead,
        }

    def _words(self) -> str:
        self._log.seek(0)
        return self._log.read(1 << 20).decode(errors="replace")

    def _wait_until_it_answers(self) -> None:
        end = time.monotonic() + START_WAIT
        while True:
            if self._process.poll() is not None:
                raise self._failure(f"ended at once (exit code {self._process.returncode})")
            if Path(self.uapi.path).exists():
                with contextlib.suppress(UdpringError):
                    self.uapi.get()
                    if not self.program.elsewhere or _INSIDE.search(self._words()):
                        return
            if time.monotonic() > end:
                raise self._failure(f"serves no {self.uapi.path} after {START_WAIT:g} s")
            time.sleep(0.02)

    def _failure(self, what: str) -> HostError:
        words = self._words().strip().splitlines()
        last = f": {words[-1]}" if words else ""
        return HostError(
            f"{self.program.name} {what}{last}",
            cure=f"it is started as `{shlex.join(self.program.argv)} -f INTERFACE`, as wireguard-go is",
        )

    def cpu_seconds(self) -> float:
        """User and system time of its processes so far."""
        return usage.cpu_seconds(self._process.pid)

    def resident_mib(self) -> float:
        """Resident memory of its processes."""
        return usage.resident_mib(self._process.pid)

    def close(self) -> None:
        """Ends it by SIGTERM, finally by SIGKILL. Removes its socket file."""
        try:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(STOP_WAIT)
                    break
        finally:
            Path(self.uapi.path).unlink(missing_ok=True)
            if self._process.stdout:
                self._process.stdout.close()
            self._log.close()
