"""``udpring doctor``: the features of this host, the missing ones, and the cures."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from udpring.cli import Subparsers
from udpring.cli._folding import fitting
from udpring.errors import UdpringError

if TYPE_CHECKING:
    from udpring.tunnel.probe import HostProbe
    from udpring.uring import Feature

_CANNOT = 3

Row = tuple[str, str, str, str]


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "doctor",
        help="show which features this host has, which it lacks, and the cure",
        description="Try each feature that udpring uses: io_uring, UDP offloads, the TUN device, the "
        "ciphers, the programs that `udpring up` needs. Print which work, which do not, and the "
        "cure. Also print routing loops of running interfaces. The exit code is 0 if a node can "
        "run here, and 3 if it cannot.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, as udpring.probe().as_dict()")


def run(args: argparse.Namespace) -> int:
    """Probes and prints; 0 when a node can run, 3 when the host cannot."""
    from udpring.tunnel.probe import probe  # noqa: PLC0415

    found = probe()
    if args.json:
        print(json.dumps(found.as_dict(), indent=2))
    else:
        print(fitting((*_loops(), *as_text(found))))
    return 0 if found.can_run_node else _CANNOT


def as_text(found: HostProbe) -> Iterator[str]:
    """The lines to print: the table, then missing features with cures, then the verdict."""
    system = found.system
    cpus = f"{system.cpus} CPUs: {system.cpu}"
    yield f"udpring {found.version}, Linux {system.kernel}, {system.machine}, {cpus}".rstrip(": ")
    yield ""
    rows = list(_rows(found))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        yield "  ".join((*cells, row[3])).rstrip()
    for missing in found.missing:
        yield ""
        yield f"{'MISSING' if missing.fatal else 'missing'}: {missing.what}: {missing.effect}"
        yield f"  cure: {missing.cure}"
    yield ""
    if found.can_run_node:
        yield "a node can run here"
    else:
        yield "no node can run here" + (", except a rootless one" if found.rootless else "")


def _rows(found: HostProbe) -> Iterator[Row]:
    yield from _features("io_uring", found.uring.features)
    yield "io_uring", "zero copy", "-", str(found.uring.zero_copy)
    for tier in found.udp.tiers:
        used = " (in use)" if tier.name == found.udp.tier else ""
        yield "tier", tier.name, _state(tier), tier.reason + used
    yield from _features("UDP", (found.udp.segment, found.udp.gro))
    for aead in found.aead:
        yield "AEAD", aead.cipher, "yes" if aead.library else "no", aead.library or aead.why
        for library in aead.libraries:
            used = f" (in use: {aead.why})" if library.name == aead.library else ""
            yield "AEAD", f"  {library.name}", _state(library), library.reason + used
    yield "handshake", found.handshake.name, _state(found.handshake), found.handshake.reason
    yield "CPU", "features", "-", " ".join(found.system.cpu_features) or "none that udpring uses"
    tun = found.tun
    yield "TUN", "device", _state(tun.device), tun.device.reason
    yield "TUN", "offloads", "yes" if tun.offloads else "no", " ".join(tun.offloads)
    yield from _features("TUN", (tun.multi_queue, tun.steering))
    for name, has in found.capabilities.items():
        yield "right", name, "yes" if has else "no", ""
    limits = found.limits
    for name, value in (
        ("rmem_max", limits.rmem_max),
        ("wmem_max", limits.wmem_max),
        ("io_uring_disabled", limits.io_uring_disabled),
        ("open files", limits.open_files if limits.open_files >= 0 else "none"),
    ):
        yield "limit", name, "-", "unknown" if value is None else str(value)
    yield "limit", "memlock", "-", "none" if limits.memlock is None else f"{limits.memlock} bytes"
    yield "tool", "iproute2", _state(found.iproute2), found.iproute2.reason
    yield from _features("up", found.up_tools)
    yield "rootless", "namespaces", _state(found.rootless), found.rootless.reason


def _loops() -> Iterator[str]:
    """Running interfaces with a peer that they cannot reach, because its packets come back."""
    from udpring.tunnel.endpoint_routes import loops_of_device  # noqa: PLC0415
    from udpring.tunnel.keys import key_label  # noqa: PLC0415
    from udpring.tunnel.uapi_client import UapiClient, interfaces  # noqa: PLC0415

    found = False
    for name in interfaces():
        with suppress(UdpringError):
            for loop in loops_of_device(UapiClient(name).get(), name):
                found = True
                yield f"LOOP: {name}, {key_label(loop.public_key)}: {loop}: its packets are dropped"
                yield "  cure: add a route to the endpoint (ip route add), or set FwMark and a rule for it"
    if found:
        yield ""


def _features(area: str, features: tuple[Feature, ...]) -> Iterator[Row]:
    for feature in features:
        yield area, feature.name, _state(feature), feature.reason


def _state(feature: Feature) -> str:
    return "yes" if feature else "no"
