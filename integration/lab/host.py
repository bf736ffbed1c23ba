"""A namespace as a host: an uplink, programs in front of the PATH, a directory for files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lab.space import Space, until

UDPRING = (sys.executable, "-P", "-m", "udpring.cli.main")

#: Records its calls and standard input. Answers `-l` with the recorded input, as openresolv does.
_RECORDER = """#!/bin/bash
log={log}
case $1 in
    -l) cat "$log.$2" 2>/dev/null; exit 0;;
    -a) cat >"$log.$2"; said=$(tr '\\n' ';' <"$log.$2");;
    -d) rm -f "$log.$2"; said=;;
    *) said=;;
esac
printf '%s%s\\n' "{name} $*" "${{said:+ <$said}}" >>"$log"
exit {status}
"""


class Host:
    """``open`` makes it, ``close`` removes it. ``folder`` holds its files, ``bin`` goes before the PATH."""

    def __init__(self, name: str, folder: Path) -> None:
        self.space = Space(name)
        self.folder = folder
        self.bin = folder / "bin"
        self.dns_log = folder / "dns"
        self.bin.mkdir(parents=True)

    def open(self, *, ipv6: bool = False) -> None:
        """A veth pair of MTU 1450 with default routes of IPv4 and IPv6, or (``ipv6``) only of IPv6."""
        name = self.space.name
        subprocess.run(("ip", "netns", "add", name), check=True, timeout=30)
        four = "" if ipv6 else "address add 192.0.2.1/24 dev out0\nroute add default via 192.0.2.254\n"
        four += "" if ipv6 else "route add 198.51.100.0/24 via 192.0.2.254 mtu 1300\n"
        batch = (
            "link set lo up\n"
            "link add out0 mtu 1450 type veth peer name out1 mtu 1450\n"
            "link set out0 addrgenmode none\nlink set out1 addrgenmode none\n"
            "link set out0 up\nlink set out1 up\n"
            f"{four}"
            "address add 2001:db8::1/64 dev out0 nodad\nroute add default via 2001:db8::fe dev out0\n"
            "route add 2001:db8:1::/48 via 2001:db8::fe dev out0 mtu 1280\n"
        )
        self.space.run("ip", "-batch", "-", stdin=batch)
        self.space.wait_for_address("2001:db8::1")

    def close(self) -> None:
        if self.space.path.exists():
            until(lambda: not self.space.pids(), "all its programs have ended")
        subprocess.run(("ip", "netns", "del", self.space.name), check=False, timeout=30)

    def program(self, name: str, text: str) -> None:
        """A script in front of the PATH."""
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    def path_without(self, *names: str) -> str:
        """A PATH with every program of the present one except these."""
        farm = self.folder / "path"
        farm.mkdir()
        for folder in os.environ["PATH"].split(":"):
            for program in Path(folder).glob("*"):
                if program.name not in names and not (farm / program.name).is_symlink():
                    (farm / program.name).symlink_to(program)
        return str(farm)

    def resolvconf(self, name: str = "resolvconf", status: int = 0) -> None:
        """A resolvconf (or resolvectl) that records its calls."""
        self.program(name, _RECORDER.format(log=self.dns_log, name=name, status=status))

    def dns_calls(self) -> list[str]:
        return self.dns_log.read_text().splitlines() if self.dns_log.exists() else []

    def run(
        self, *command: str, path: str | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs it inside, in ``folder``, with ``bin`` before ``path`` (the PATH)."""
        inherited = {
            key: value for key, value in os.environ.items() if key != "WG_ENDPOINT_RESOLUTION_RETRIES"
        }
        return subprocess.run(
            self.space.argv(*command),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            env={**inherited, "PATH": f"{self.bin}:{path or os.environ['PATH']}", **environment},
            check=False,
        )

    def udpring(
        self, *words: str, path: str | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return self.run(*UDPRING, *words, path=path, **environment)

    def file(self, interface: str, text: str, mode: int = 0o600) -> Path:
        path = self.folder / f"{interface}.conf"
        path.write_text(text)
        path.chmod(mode)
        return path

    def has(self, interface: str) -> bool:
        return f" {interface}: " in self.space.ip("-o", "link")

    def surroundings(self) -> str:
        """Everything that a set-up may leave besides the interface."""
        return "".join(
            self.space.run(*words).stdout
            for words in (
                ("ip", "-4", "route", "show", "table", "all"),
                ("ip", "-6", "route", "show", "table", "all"),
                ("ip", "-4", "rule"),
                ("ip", "-6", "rule"),
                ("nft", "list", "ruleset"),
            )
        )

    def wait_gone(self, interface: str) -> None:
        until(lambda: not self.has(interface), f"{interface} is gone")
