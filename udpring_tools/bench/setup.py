"""Start-up, and configuration with very many peers: udpring and other programs in turn.

Each run does this with each program, in a network namespace of its own:
1. Start it. The time until its UAPI socket answers a request, and its memory then.
2. ``wg setconf`` with the peers into the empty interface, ``wg syncconf`` with the same file, ``wg show``.
   The times are those of the whole commands, ``wg`` included.
3. Memory with the peers, above that without.

A peer has a random key, an IPv4 endpoint and one allowed IP. The interface stays down, so no handshake
begins.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import udpring
from udpring.errors import HostError, UdpringError
from udpring.tunnel import keys
from udpring.tunnel.socket_path import SOCKET_DIRECTORY
from udpring_tools.bench import usage
from udpring_tools.bench.comparison import summary
from udpring_tools.bench.host import host_facts, load
from udpring_tools.bench.measures import Figure
from udpring_tools.bench.program import Program
from udpring_tools.bench.space import Space, require_tools

__all__ = ["FIGURES", "measure_setup"]

Say = Callable[[str], None]

FIGURES = (
    Figure("start_ms", "start to socket ready", "ms", "Start", True, 1),
    Figure("resident_mib", "resident memory (PSS), no peers", "MiB", "Memory", True, 1),
    Figure("setconf_s", "wg setconf", "s", "Commands, with all peers", True, 3),
    Figure("syncconf_s", "wg syncconf, unchanged", "s", "Commands, with all peers", True, 3),
    Figure("show_s", "wg show", "s", "Commands, with all peers", True, 3),
    Figure("peers_mib", "memory above no peers", "MiB", "Memory", True, 1),
)
START_WAIT = 20.0
COMMAND_WAIT = 120.0
POLL = 0.0005


def configuration(peers: int) -> str:
    """A file for ``wg setconf``."""
    text = [f"[Interface]\nPrivateKey = {keys.to_base64(keys.generate_private_key())}\n"]
    for number in range(peers):
        high, low = number >> 8, number & 255
        text.append(
            f"[Peer]\nPublicKey = {keys.to_base64(secrets.token_bytes(32))}\n"
            f"Endpoint = 192.{high >> 8}.{high & 255}.{low}:51820\n"
            f"AllowedIPs = 10.{high >> 8}.{high & 255}.{low}/32\n"
        )
    return "".join(text)


def installation() -> str:
    """How the udpring that is measured is installed. A start from a checkout is slower: it compares the core
    with its sources, and ``site`` loads the finder of an editable installation."""
    return "checkout" if (Path(udpring.__file__).parent / "native" / "abi.h").exists() else "wheel"


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
        client.settimeout(START_WAIT)
        client.connect(str(path))
        client.sendall(b"get=1\n\n")
        return b"errno=0" in client.recv(4096)
    return False


@contextlib.contextmanager
def _running(program: Program, interface: str) -> Iterator[tuple[int, float]]:
    """The process, and the seconds from its start until its socket answers. In the caller's namespace: no
    program stands between."""
    path = Path(SOCKET_DIRECTORY, f"{interface}.sock")
    env = {**os.environ, **dict(program.env), "WG_PROCESS_FOREGROUND": "1", "LOG_LEVEL": "error"}
    began = time.perf_counter()
    process = subprocess.Popen(
        [*program.argv, "-f", interface],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=env,
    )
    try:
        while not _answers(path):
            if process.poll() is not None or time.perf_counter() - began > START_WAIT:
                raise HostError(f"{program.name} does not serve {path}", cure="start it by hand to see why")
            time.sleep(POLL)
        yield process.pid, time.perf_counter() - began
    finally:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(COMMAND_WAIT)
                break
        path.unlink(missing_ok=True)


def _timed(*words: str) -> float:
    began = time.perf_counter()
    done = subprocess.run(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=COMMAND_WAIT, check=False
    )
    if done.returncode:
        raise UdpringError(f"{shlex.join(words)}: {done.stderr.strip()}")
    return time.perf_counter() - began


def _sample(program: Program, file: str) -> dict[str, float]:
    interface = f"bench{secrets.token_hex(3)}"
    with _running(program, interface) as (pid, seconds):
        empty = usage.resident_mib(pid)
        sample = {"start_ms": seconds * 1000, "resident_mib": empty}
        for word in ("setconf", "syncconf"):
            sample[f"{word}_s"] = _timed("wg", word, interface, file)
        sample["show_s"] = _timed("wg", "show", interface)
        return sample | {"peers_mib": usage.resident_mib(pid) - empty}


def measure_setup(programs: Sequence[Program], peers: int, runs: int, say: Say) -> dict[str, Any]:
    """Measures the programs. The first one is udpring. Raises HostError, UdpringError."""
    require_tools("ip", "nsenter", "unshare", "setpriv", "wg")
    facts, before = host_facts(), load()
    samples: dict[str, list[dict[str, float]]] = {program.name: [] for program in programs}
    with contextlib.closing(Space()) as space, tempfile.NamedTemporaryFile("w") as file:
        file.write(configuration(peers))
        file.flush()
        for run in range(runs):
            for program in programs if run % 2 == 0 else reversed(programs):
                say(f"run {run + 1}/{runs}, {program.name}: {peers} peers")

                def sample(program: Program = program) -> dict[str, float]:
                    return _sample(program, file.name)

                samples[program.name].append(space.begin(sample)())
    taken = [(program.name, shlex.join(program.argv), samples[program.name]) for program in programs]
    return {
        **facts,
        "load_average": [before, load()],
        "installation": installation(),
        "runs": runs,
        "peers": peers,
        **summary(taken, figures=FIGURES),
    }
