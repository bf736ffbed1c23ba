"""A network namespace without a name: it lives as long as the ``cat`` that holds it.

Every process started here ends with this one, in any way: the holder by its pipe, the others by a signal from
the kernel (prctl(2), PR_SET_PDEATHSIG). So a killed program leaves nothing to clean up.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Literal, NoReturn, TypeVar

from udpring.errors import HostError, UdpringError
from udpring_tools.bench.interpreter import module_argv

__all__ = ["Entered", "Space", "become_root", "join", "require_tools"]

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
TOOLS = {
    "ip": "iproute2",
    "iperf3": "iperf3",
    "nsenter": "util-linux",
    "ping": "iputils-ping",
    "setpriv": "util-linux",
    "unshare": "util-linux",
    "wg": "wireguard-tools",
}
INSIDE = "UDPRING_USER_NAMESPACE"
"""Set in the environment of a command that was restarted in a user namespace."""


def require_tools(*tools: str) -> None:
    """Raises HostError for the first of these programs that is not installed, with its Debian package."""
    for tool in tools:
        if not shutil.which(tool):
            raise HostError(f"{tool} is not installed", cure=f"install it: apt-get install {TOOLS[tool]}")


def become_root(words: Sequence[str], say: Callable[[str], None]) -> None:
    """Returns as root. If this process is not root, replaces it by ``udpring WORDS`` as root of a user
    namespace with its own /run, because UAPI sockets have one place. Raises HostError if the host allows
    none."""
    if os.geteuid() != 0:
        _start_in_user_namespace(words, say)
    if os.environ.pop(INSIDE, ""):
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True, timeout=30)


def _start_in_user_namespace(words: Sequence[str], say: Callable[[str], None]) -> NoReturn:
    enter = ["unshare", "--user", "--map-root-user", "--net", "--mount", "--"]
    tried = subprocess.run([*enter, "true"], capture_output=True, text=True, check=False, timeout=30)
    if tried.returncode:
        raise HostError(
            f"not root, and the host allows no user namespace: {tried.stderr.strip()}",
            cure="run it with sudo, or allow them: sysctl -w kernel.unprivileged_userns_clone=1 "
            "kernel.apparmor_restrict_unprivileged_userns=0",
        )
    say("not root: using a user namespace")
    sys.stdout.flush()
    command = [*enter, *module_argv("udpring.cli.main", *words)]
    os.execvpe(enter[0], command, {**os.environ, INSIDE: "1"})


GUARD = '[ "$PPID" = "$0" ] && exec "$@"'
"""Run by sh(1) after it requested the signal. The kernel sends none for an end that came before."""


class Space:
    """A network namespace, held by a process that ends with this one."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        stdin, stdout, stderr = self._pipes()
        with contextlib.suppress(BrokenPipeError):
            stdin.write(b"\n")
            stdin.flush()
        if stdout.readline() != b"\n":
            why = stderr.read().decode(errors="replace").strip()
            self.close()
            raise HostError(
                f"no network namespace can be made: {why}",
                cure="give the container CAP_SYS_ADMIN and CAP_NET_ADMIN, or run it without root",
            )
        self.command("ip", "link", "set", "lo", "up")

    def _pipes(self) -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
        assert self._holder.stdin
        assert self._holder.stdout
        assert self._holder.stderr
        return self._holder.stdin, self._holder.stdout, self._holder.stderr

    @property
    def pid(self) -> int:
        """The process that holds the namespace."""
        return self._holder.pid

    def argv(self, *command: str, at_our_end: Literal["KILL", "TERM"] = "KILL") -> list[str]:
        """The command line that runs ``command`` inside, for this process to start. The command gets the
        signal ``at_our_end`` when the thread that started it ends."""
        enter = ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--"]
        bound = ["setpriv", "--pdeathsig", at_our_end, "--", "sh", "-c", GUARD, str(os.getpid())]
        return [*enter, *bound, *command]

    def command(self, *command: str, timeout: float = 30) -> str:
        """Runs a command inside. Returns its output. Raises UdpringError if it fails or takes longer than
        ``timeout`` seconds."""
        try:
            done = subprocess.run(
                self.argv(*command), capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired:
            raise UdpringError(f"{' '.join(command)}: not done within {timeout:g} s") from None
        if done.returncode:
            why = done.stderr.strip() or done.stdout.strip()[-500:] or f"exit code {done.returncode}"
            raise UdpringError(f"{' '.join(command)}: {why}")
        return done.stdout

    def spawn(
        self,
        *command: str,
        stderr: IO[bytes] | int = subprocess.DEVNULL,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Starts a command inside, in its own session. Its standard output is a pipe. It gets SIGTERM when
        this process ends. Call it in the main thread: the kernel sends the signal when the starting thread
        ends."""
        return subprocess.Popen(
            self.argv(*command, at_our_end="TERM"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            start_new_session=True,
            text=True,
            env={**os.environ, **(env or {})},
        )

    def begin(self, work: Callable[[], T]) -> Callable[[], T]:
        """Runs ``work()`` in a thread that has entered the namespace. The returned function waits for its
        result."""
        results: list[T] = []
        failures: list[BaseException] = []

        def run() -> None:
            try:
                with Path(f"/proc/{self.pid}/ns/net").open("rb") as entry:
                    if ctypes.CDLL(None, use_errno=True).setns(entry.fileno(), CLONE_NEWNET):
                        number = ctypes.get_errno()
                        raise OSError(number, os.strerror(number))
                results.append(work())
            except BaseException as failed:
                failures.append(failed)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()

        def wait() -> T:
            thread.join()
            if failures:
                raise failures[0]
            return results[0]

        return wait

    def close(self) -> None:
        """Releases the namespace."""
        for pipe in self._pipes():
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        try:
            self._holder.wait(5)
        except subprocess.TimeoutExpired:
            self._holder.kill()
            self._holder.wait()


class Entered(Space):
    """The namespaces of another process (a rootless node), which must live on."""

    def __init__(self, outside: Space, pid: int) -> None:
        self._outside = outside
        self._pid = pid

    @property
    def pid(self) -> int:
        """The process that holds the namespaces."""
        return self._pid

    def argv(self, *command: str, at_our_end: Literal["KILL", "TERM"] = "KILL") -> list[str]:
        """As that of a Space."""
        bound = ["setpriv", "--pdeathsig", at_our_end, "--", "sh", "-c", GUARD, str(os.getpid())]
        enter = ["nsenter", f"--target={self._pid}", "--user", "--net", "--preserve-credentials", "--"]
        return [*enter, *bound, *command]

    def close(self) -> None:
        """There is nothing to release."""


def join(here: Space, there: Space, addresses: Sequence[Sequence[str]], link: str = "under") -> None:
    """A veth between two namespaces, named ``link`` in both. Each end gets its addresses (with prefix
    length)."""
    peer = ["type", "veth", "peer", "name", link, "netns", str(there.pid)]
    here.command("ip", "link", "add", link, *peer)
    for space, own in zip((here, there), addresses, strict=True):
        for address in own:
            nodad = ["nodad"] if ":" in address else []
            space.command("ip", "addr", "add", address, "dev", link, *nodad)
        space.command("ip", "link", "set", link, "up")
