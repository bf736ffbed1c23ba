"""``udpring bugreport``: everything that a report of a fault needs, in one file without secrets.

Each part that cannot be had is replaced by the reason. The redaction runs over the text of every part
(``_redaction``), whatever its source.
"""

from __future__ import annotations

import argparse
import errno
import io
import json
import os
import platform
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from udpring.cli import Subparsers
from udpring.cli._redaction import Redactor
from udpring.errors import HostError, UdpringError

LONGEST = 1 << 20
"""Characters of one part. The rest is cut."""
COMMANDS = {
    "link": ("ip", "-d", "-s", "link"),
    "address": ("ip", "address"),
    "route": ("ip", "route", "show", "table", "all"),
    "route6": ("ip", "-6", "route", "show", "table", "all"),
    "rule": ("ip", "rule"),
    "rule6": ("ip", "-6", "rule"),
}
COMMAND_SECONDS = 10.0
VARIABLES = frozenset({"LOG_LEVEL", "WG_HIDE_KEYS", "WG_PROCESS_FOREGROUND", "WG_TUN_FD", "WG_UAPI_FD"})
"""And those that begin with ``UDPRING_``. Other programs of WireGuard have passwords in theirs."""
MODULES = ("wireguard", "tun", "vrf", "nf_tables", "ip_tables", "udp_tunnel")

README = """A report of udpring. Look through it before you send it.

Private keys and preshared keys are not in it. Public keys are. Commands, comments and unknown settings of
configurations were removed. Addresses, host names and domains {addresses}.
"""


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "bugreport",
        help="write a file for a report of a fault, without secrets",
        description="Write versions, the kernel, what `udpring doctor` and `udpring stats` print, routes and "
        "configurations into one file that only its owner can read. It holds no private or preshared key. "
        "Look through it before you send it.",
    )
    parser.add_argument(
        "interfaces", nargs="*", metavar="IFACE", help="only these interfaces (default: all that run)"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="a .tar.gz file, which must not exist")
    parser.add_argument(
        "--redact-addresses",
        action="store_true",
        help="replace IP and MAC addresses, endpoints' host names and DNS domains by numbers",
    )


def run(args: argparse.Namespace) -> int:
    """Raises HostError where the file cannot be made."""
    output = Path(args.output or time.strftime("udpring-bugreport-%Y%m%d-%H%M%S.tar.gz"))
    redactor = Redactor(addresses=args.redact_addresses)
    bundle = bundled(parts(args.interfaces, redactor), redactor, addresses=args.redact_addresses)
    write_new(output, bundle)
    print(f"{output}: look through it before you send it: tar -xOzf {output}")
    return 0


def write_new(path: Path, data: bytes) -> None:
    """Makes the file with mode 0600. Raises HostError where it exists or cannot be made."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o600)
            file.write(data)
    except OSError as failed:
        cure = "choose another name: --output FILE" if failed.errno == errno.EEXIST else ""
        raise HostError(f"{path}: {failed.strerror}", errno=failed.errno or 0, cure=cure) from None


def bundled(found: Iterator[tuple[str, str]], redactor: Redactor, *, addresses: bool) -> bytes:
    """A compressed tar archive. The owners and times of its members say nothing of this host."""
    packed = io.BytesIO()
    readme = README.format(addresses="were replaced by numbers" if addresses else "are")
    # All parts first: a secret or a host name that a later one shows is removed from earlier ones too.
    everything = [("README", readme), *found]
    with tarfile.open(fileobj=packed, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        for name, text in everything:
            data = redactor.text(text)[:LONGEST].encode("utf-8", "backslashreplace")
            member = tarfile.TarInfo(f"udpring-bugreport/{redactor.text(name)}")
            member.size, member.mode, member.mtime = len(data), 0o600, int(time.time())
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def parts(interfaces: list[str], redactor: Redactor) -> Iterator[tuple[str, str]]:
    """The name and the text of each part. The redactor learns the keys on the way."""
    from udpring.tunnel import uapi, uapi_client  # noqa: PLC0415

    names = interfaces or uapi_client.interfaces(uapi.SOCKET_DIRECTORY)
    configurations = {name: _attempt(partial(_file_of, name)) for name in names}
    _learn_keys(names, configurations, redactor)
    yield "versions.txt", _versions()
    yield "doctor.txt", _attempt(_doctor)
    for name in names:
        yield f"{name}/stats.json", _attempt(partial(_stats, name))
        yield f"{name}/show.json", _attempt(partial(_shown, name))
        yield f"{name}/configuration", redactor.configuration(configurations[name])
    for name, command in COMMANDS.items():
        yield f"network/{name}.txt", _attempt(partial(_output, command))


def _doctor() -> str:
    """The table, and behind it the same as JSON, which has more."""
    from udpring.cli import doctor  # noqa: PLC0415
    from udpring.tunnel import probe  # noqa: PLC0415

    found = probe.probe()
    return "\n".join((*doctor.as_text(found), "", json.dumps(found.as_dict(), indent=2), ""))


def _attempt(work: Callable[[], str]) -> str:
    """The text, or the reason why there is none."""
    try:
        return work()
    except (UdpringError, OSError, ValueError, subprocess.SubprocessError) as failed:
        return f"not available: {type(failed).__name__}: {failed}"


def _file_of(name: str) -> str:
    from udpring.cli._peer_names import file_of  # noqa: PLC0415

    file = file_of(name)
    return "" if file is None else file.read_text(encoding="utf-8", errors="replace")[:LONGEST]


def _learn_keys(names: list[str], configurations: dict[str, str], redactor: Redactor) -> None:
    """Public keys first, so that a secret among them is one."""
    import contextlib  # noqa: PLC0415

    from udpring.tunnel import config, keys, uapi, uapi_client  # noqa: PLC0415

    secrets: list[bytes | None] = []
    for name in names:
        with contextlib.suppress(UdpringError, OSError):
            device = uapi_client.UapiClient(name, uapi.SOCKET_DIRECTORY).get()
            secrets.append(device.private_key)
            for peer in device.peers:
                redactor.add_public([peer.public_key])
                secrets.append(peer.preshared_key)
        with contextlib.suppress(UdpringError):
            loaded = config.Config.loads(configurations[name])
            secrets.append(loaded.interface.private_key)
            redactor.add_public(peer.public_key for peer in loaded.peers)
            secrets += [peer.preshared_key for peer in loaded.peers]
    redactor.add_public(keys.public_key(secret) for secret in secrets if secret)
    redactor.add_secrets(secrets)
    redactor.add_secrets(keys.clamp(secret) for secret in secrets if secret)


def _stats(name: str) -> str:
    from udpring.tunnel import uapi, uapi_client  # noqa: PLC0415

    return json.dumps(uapi_client.UapiClient(name, uapi.SOCKET_DIRECTORY).report("stats"), indent=2)


def _shown(name: str) -> str:
    from udpring.cli import show  # noqa: PLC0415
    from udpring.cli._peer_names import names_of  # noqa: PLC0415
    from udpring.tunnel import uapi, uapi_client  # noqa: PLC0415

    device = uapi_client.UapiClient(name, uapi.SOCKET_DIRECTORY).get()
    return json.dumps(show.as_json(device, names_of(name), secrets=False), indent=2)


def _versions() -> str:
    from importlib import metadata  # noqa: PLC0415

    import udpring  # noqa: PLC0415

    system = os.uname()
    lines = [
        f"udpring {udpring.__version__}",
        f"kernel {system.sysname} {system.release} {system.version} {system.machine}",
        f"distribution {_distribution()}",
        f"python {sys.version}".replace("\n", " "),
        f"libc {' '.join(platform.libc_ver())}",
    ]
    for package in ("cffi", "cryptography", "prometheus-client"):
        try:
            lines.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            lines.append(f"{package} not installed")
    lines += [f"module {word}" for word in _modules()]
    lines += [
        f"{name}={value}"
        for name, value in os.environ.items()
        if name in VARIABLES or name.startswith("UDPRING_")
    ]
    return "\n".join(lines) + "\n"


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "unknown")
    except OSError:
        return "unknown"


def _modules() -> list[str]:
    try:
        loaded = [line.split()[0] for line in Path("/proc/modules").read_text().splitlines()]
    except OSError:
        return []
    return [name for name in loaded if name in MODULES]


def _output(command: tuple[str, ...]) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=COMMAND_SECONDS, check=False
    )
    return done.stdout + (f"\nexit code {done.returncode}: {done.stderr}" if done.returncode else "")
