"""``udpring show``: the state of running interfaces, over the UAPI of any userspace WireGuard."""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
import time
from collections.abc import Iterator

from udpring.cli import Subparsers
from udpring.cli._peer_names import names_of
from udpring.errors import UdpringError
from udpring.tunnel import keys, uapi
from udpring.tunnel.uapi_client import UapiClient, interfaces
from udpring.wireguard.cipher import Cipher

_SECOND = 1_000_000_000
_UNITS = (("year", 365 * 86400), ("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))
_SIZES = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "show",
        help="show the state of running interfaces",
        description="Print interfaces and peers as wg show does. Add the peers' names from "
        "the file of udpring up, or /etc/wireguard/IFACE.conf. --json uses the names of wg-json.",
    )
    parser.add_argument("interface", nargs="?", metavar="IFACE", help="one interface (default: all)")
    parser.add_argument("--json", action="store_true", help="print JSON: interface -> state")
    parser.add_argument(
        "--show-keys",
        action="store_true",
        help="print private and preshared keys, as WG_HIDE_KEYS=never does",
    )


def run(args: argparse.Namespace) -> int:
    """Prints the table or the object. HostError where nothing serves the interface."""
    wanted = [args.interface] if args.interface else interfaces(uapi.SOCKET_DIRECTORY)
    secrets = args.show_keys or os.environ.get("WG_HIDE_KEYS") == "never"
    devices = {}
    for name in wanted:
        try:
            devices[name] = UapiClient(name, uapi.SOCKET_DIRECTORY).get()
        except UdpringError as failed:
            if args.interface or getattr(failed, "errno", 0) in (errno.EACCES, errno.EPERM):
                raise
            print(f"udpring: warning: {failed}", file=sys.stderr)  # it has ended meanwhile
    if args.json:
        objects = {name: as_json(device, names_of(name), secrets) for name, device in devices.items()}
        print(json.dumps(objects, indent=2))
        return 0
    now = time.time_ns()
    texts = (
        "\n".join(as_text(name, device, names_of(name), secrets, now)) for name, device in devices.items()
    )
    print("\n\n".join(texts), end="\n" if devices else "")
    return 0


def _by_handshake(device: uapi.DeviceInfo) -> list[uapi.PeerInfo]:
    """The latest handshake first, as ``wg``."""
    return sorted(device.peers, key=lambda peer: peer.last_handshake, reverse=True)


def _allowed_ips(peer: uapi.PeerInfo) -> list[str]:
    return [uapi.format_prefix(ip, cidr) for ip, cidr in peer.allowed_ips]


def as_json(device: uapi.DeviceInfo, names: dict[bytes, str], secrets: bool) -> dict[str, object]:
    """The object of ``wg-json``: keys that are unset are left out, times are epoch seconds, sizes are
    bytes."""
    shown: dict[str, object] = {}
    if device.private_key is not None:
        if secrets:
            shown["privateKey"] = keys.to_base64(device.private_key)
        shown["publicKey"] = keys.to_base64(keys.public_key(device.private_key))
    if device.listen_port:
        shown["listenPort"] = device.listen_port
    if device.fwmark:
        shown["fwmark"] = device.fwmark
    if device.paused:
        shown["paused"] = True
    if device.offload is not None:
        shown["offload"] = uapi.OFFLOAD_WORDS[device.offload]
    peers = {
        keys.to_base64(peer.public_key): _peer_json(peer, names, secrets) for peer in _by_handshake(device)
    }
    return shown | {"peers": peers}


def _peer_json(peer: uapi.PeerInfo, names: dict[bytes, str], secrets: bool) -> dict[str, object]:
    shown: dict[str, object] = {}
    if peer.public_key in names:
        shown["name"] = names[peer.public_key]
    if secrets and peer.preshared_key is not None:
        shown["presharedKey"] = keys.to_base64(peer.preshared_key)
    if peer.endpoint is not None:
        shown["endpoint"] = uapi.format_endpoint(*peer.endpoint)
    if peer.last_handshake:
        shown["latestHandshake"] = peer.last_handshake // _SECOND
    shown["transferRx"] = peer.rx_bytes
    shown["transferTx"] = peer.tx_bytes
    if peer.persistent_keepalive:
        shown["persistentKeepalive"] = peer.persistent_keepalive
    if peer.cipher is not Cipher.CHACHA20_POLY1305:
        shown["cipher"] = str(peer.cipher)
    if peer.offload is not None:
        shown["offload"] = uapi.OFFLOAD_WORDS[peer.offload]
    return shown | {"allowedIps": _allowed_ips(peer)}


def as_text(
    name: str, device: uapi.DeviceInfo, names: dict[bytes, str], secrets: bool, now: int
) -> Iterator[str]:
    """The lines of ``wg show``. ``now`` is in nanoseconds since the epoch."""
    yield f"interface: {name}"
    if device.private_key is not None:
        yield f"  public key: {keys.to_base64(keys.public_key(device.private_key))}"
        yield f"  private key: {keys.to_base64(device.private_key) if secrets else '(hidden)'}"
    if device.listen_port:
        yield f"  listening port: {device.listen_port}"
    if device.fwmark:
        yield f"  fwmark: 0x{device.fwmark:x}"
    if device.paused:
        yield "  paused: yes (no new sessions as responder)"
    if device.offload is not None:
        yield f"  offload: {uapi.OFFLOAD_WORDS[device.offload]}"
    for peer in _by_handshake(device):
        yield ""
        yield f"peer: {keys.to_base64(peer.public_key)}"
        if peer.public_key in names:
            yield f"  name: {names[peer.public_key]}"
        if peer.preshared_key is not None:
            yield f"  preshared key: {keys.to_base64(peer.preshared_key) if secrets else '(hidden)'}"
        if peer.endpoint is not None:
            yield f"  endpoint: {uapi.format_endpoint(*peer.endpoint)}"
        yield f"  allowed ips: {', '.join(_allowed_ips(peer)) or '(none)'}"
        if peer.last_handshake:
            yield f"  latest handshake: {ago(now - peer.last_handshake)}"
        if peer.rx_bytes or peer.tx_bytes:
            yield f"  transfer: {size(peer.rx_bytes)} received, {size(peer.tx_bytes)} sent"
        if peer.persistent_keepalive:
            yield f"  persistent keepalive: every {duration(peer.persistent_keepalive)}"
        if peer.cipher is not Cipher.CHACHA20_POLY1305:
            yield f"  cipher: {peer.cipher}"
        if peer.offload is not None:
            yield f"  offload: {uapi.OFFLOAD_WORDS[peer.offload]}"


def duration(seconds: int) -> str:
    """``1 hour, 2 minutes, 3 seconds``."""
    parts = []
    for unit, length in _UNITS:
        count, seconds = divmod(seconds, length)
        if count:
            parts.append(f"{count} {unit}{'' if count == 1 else 's'}")
    return ", ".join(parts) or "0 seconds"


def ago(nanoseconds: int) -> str:
    """How long ago, in words. For a future time it says that the clock was set back."""
    if nanoseconds < 0:
        return "(the system clock was set back)"
    seconds = nanoseconds // _SECOND
    return f"{duration(seconds)} ago" if seconds else "Now"


def size(count: int) -> str:
    """``1.20 MiB``."""
    for unit, name in _SIZES:
        if count >= unit:
            return f"{count / unit:.2f} {name}"
    return f"{count} B"
