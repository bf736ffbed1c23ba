"""The operations of a UAPI request, the state in an answer, and the rules of each value.

Source: www.wireguard.com/xplatform; the stream around it is in ``uapi``.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterable
from dataclasses import field
from typing import Literal, TypeAlias

from udpring.records import record
from udpring.tunnel.decimal_text import parse_decimal
from udpring.tunnel.keys import KEY_LENGTH, KeyFormatError, from_hex
from udpring.wireguard.cipher import Cipher

NO_KEY = bytes(KEY_LENGTH)
"""An all-zero key, which means none on the wire."""

RequestName: TypeAlias = Literal["get", "set", "stats", "reload"]
REQUESTS: dict[bytes, RequestName] = {
    b"get=1": "get",
    b"set=1": "set",
    b"stats=1": "stats",
    b"reload=1": "reload",
}
"""The first lines of requests. ``wg`` sends only the first two."""


# --- operations of a request, in its order --------------------------------------------------------


@record
class GetRequest:
    """``get=1``: answer with ``uapi_text.get_answer``. The ``EndRequest`` comes next."""


@record
class ReportRequest:
    """A request that only udpring's own commands send, by its name (an extension: ``uapi_report``). The
    ``EndRequest`` comes next."""

    request: RequestName


@record
class SetPrivateKey:
    """The device's private key; None removes it (an all-zero key on the wire)."""

    key: bytes | None = field(repr=False)


@record
class SetListenPort:
    """UDP port to listen on; 0 lets the kernel choose."""

    port: int


@record
class SetFwmark:
    """Mark of outgoing datagrams (SO_MARK); 0 is off."""

    mark: int


@record
class SetPaused:
    """Whether the device takes no new sessions as responder (an extension: docs/commands.md)."""

    paused: bool


@record
class SetDeviceOffload:
    """Whether peers get trains (an extension: docs/tiers.md). None: ``auto``."""

    on: bool | None


@record
class ReplacePeers:
    """Remove every peer first."""


@record
class PeerBegin:
    """The operations up to the next ``PeerBegin`` or ``EndRequest`` are about this peer."""

    public_key: bytes


@record
class PeerRemove:
    """Remove the peer. The rest of its block is ignored."""


@record
class PeerUpdateOnly:
    """Do not create the peer. The block of an unknown peer is ignored."""


@record
class SetPresharedKey:
    """The peer's preshared key; None removes it (an all-zero key on the wire)."""

    key: bytes | None = field(repr=False)


@record
class SetEndpoint:
    """The peer's endpoint. ``ip`` has 4 or 16 bytes (v4-mapped addresses come as 4). ``scope`` is an
    interface's name or number for link-local addresses, otherwise empty."""

    ip: bytes
    port: int
    scope: str = ""


@record
class SetKeepalive:
    """Persistent keepalive interval in seconds; 0 is off."""

    seconds: int


@record
class ReplaceAllowedIps:
    """Remove all of the peer's allowed IPs first."""


@record
class AllowedIp:
    """Adds (moves to this peer) or removes one prefix. ``ip`` has 4 or 16 bytes and zero host bits."""

    family: int
    ip: bytes
    cidr: int
    remove: bool = False


@record
class ProtocolVersion:
    """The peer's protocol version. 1 is the only one."""

    version: int


@record
class SetCipher:
    """The one cipher for the peer (an extension: docs/aes-256-gcm.md)."""

    cipher: Cipher


@record
class SetOffload:
    """Whether the peer gets trains (an extension: docs/tiers.md). None: ``auto``, as the device."""

    on: bool | None


@record
class EndRequest:
    """The end of the request: answer with ``format_status``. ``errno`` is 0 or positive. ``message`` is for a
    log: it names the fault and its place, and contains nothing of a key."""

    request: RequestName
    errno: int = 0
    message: str = ""


PeerSetting: TypeAlias = (
    SetPresharedKey
    | SetEndpoint
    | SetKeepalive
    | ReplaceAllowedIps
    | ProtocolVersion
    | SetCipher
    | SetOffload
)
"""Changes of a peer that may be applied at once. ``mypy`` reports one that the server does not apply."""
SetOperation: TypeAlias = (
    SetPrivateKey
    | SetListenPort
    | SetFwmark
    | SetPaused
    | SetDeviceOffload
    | ReplacePeers
    | PeerBegin
    | PeerRemove
    | PeerUpdateOnly
    | AllowedIp
    | PeerSetting
)
Operation: TypeAlias = GetRequest | ReportRequest | SetOperation | EndRequest


# --- values ---------------------------------------------------------------------------------------


class BadValueError(Exception):
    """A value that breaks the rule of its key. The text is for the log and contains nothing of a secret."""


SCOPE_ID_MAX = 0xFFFFFFFF
"""Of an interface's number in a link-local address."""
_SCOPE = r"[^\s/%\[\]]{1,15}"  # IFNAMSIZ - 1


def parse_number(value: str, most: int) -> int:
    """A decimal number from 0 to ``most``."""
    number = parse_decimal(value, most)
    if number is None:
        raise BadValueError(f"not a decimal number from 0 to {most}")
    return number


def parse_key(value: str) -> bytes:
    """A key of 64 hexadecimal digits."""
    try:
        return from_hex(value)
    except KeyFormatError as wrong:
        raise BadValueError(str(wrong)) from None


def parse_key_or_none(value: str) -> bytes | None:
    """A key, or None for the all-zero one."""
    key = parse_key(value)
    return None if key == NO_KEY else key


def _true(value: str) -> None:
    if value != "true":
        raise BadValueError("not 'true'")


def parse_flag(value: str) -> bool:
    """``true`` or ``false``."""
    if value not in ("true", "false"):
        raise BadValueError("neither 'true' nor 'false'")
    return value == "true"


OFFLOAD_WORDS: dict[bool | None, str] = {True: "on", False: "off", None: "auto"}


def parse_offload(value: str) -> bool | None:
    """``on``, ``off`` or ``auto``."""
    for on, word in OFFLOAD_WORDS.items():
        if value == word:
            return on
    raise BadValueError("none of on, off, auto")


def _address(text: str) -> tuple[int, bytes]:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        return family, socket.inet_pton(family, text)
    except (OSError, ValueError):
        raise BadValueError("not an IP address") from None


def parse_endpoint(value: str) -> tuple[bytes, int, str]:
    """(ip, port, scope) of a numeric endpoint; a v4-mapped address gives its four bytes."""
    host, colon, port_text = value.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not host:
        raise BadValueError("not ADDRESS:PORT")
    host, percent, scope = (host[1:-1] if bracketed else host).partition("%")
    if scope.isdecimal() and parse_decimal(scope, SCOPE_ID_MAX) is None:
        raise BadValueError(f"the scope is not the number of an interface: at most {SCOPE_ID_MAX}")
    if bracketed != (":" in host) or (percent and (not bracketed or not re.fullmatch(_SCOPE, scope))):
        raise BadValueError("neither IPV4:PORT nor [IPV6]:PORT nor [IPV6%SCOPE]:PORT")
    _, ip = _address(host)
    port = parse_number(port_text, 0xFFFF)
    if port == 0:
        raise BadValueError("port 0 cannot be sent to")
    if ip[:12] == b"\0" * 10 + b"\xff\xff":
        return ip[12:], port, ""
    return ip, port, scope


def parse_prefix(value: str) -> tuple[int, bytes, int]:
    """(family, ip with zero host bits, bits) of ADDRESS/BITS."""
    text, slash, bits = value.partition("/")
    if not slash:
        raise BadValueError("not ADDRESS/BITS")
    family, ip = _address(text)
    width = len(ip) * 8
    cidr = parse_number(bits, width)
    if bits[0] == "0" and bits != "0":
        raise BadValueError("the prefix length has a leading zero")
    if cidr < width:
        number = int.from_bytes(ip, "big")
        host_bits = width - cidr
        ip = (number >> host_bits << host_bits).to_bytes(len(ip), "big")
    return family, ip, cidr


def _allowed_ip(value: str) -> AllowedIp:
    remove = value.startswith("-")
    family, ip, cidr = parse_prefix(value[1:] if remove else value)
    return AllowedIp(family, ip, cidr, remove)


def _version(value: str) -> ProtocolVersion:
    if value != "1":
        raise BadValueError("the only protocol version is 1")
    return ProtocolVersion(1)


def parse_cipher(value: str) -> Cipher:
    """A cipher by its name."""
    try:
        return Cipher(value)
    except ValueError:
        raise BadValueError(f"none of {', '.join(Cipher)}") from None


def _flag(operation: Callable[[], SetOperation]) -> Callable[[str], SetOperation]:
    def parse(value: str) -> SetOperation:
        _true(value)
        return operation()

    return parse


DEVICE_KEYS: dict[str, Callable[[str], SetOperation]] = {
    "private_key": lambda value: SetPrivateKey(parse_key_or_none(value)),
    "listen_port": lambda value: SetListenPort(parse_number(value, 0xFFFF)),
    "fwmark": lambda value: SetFwmark(parse_number(value, 0xFFFFFFFF)),
    "replace_peers": _flag(ReplacePeers),
    "paused": lambda value: SetPaused(parse_flag(value)),
    "offload": lambda value: SetDeviceOffload(parse_offload(value)),
}
PEER_KEYS: dict[str, Callable[[str], SetOperation]] = {
    "allowed_ip": _allowed_ip,
    "remove": _flag(PeerRemove),
    "update_only": _flag(PeerUpdateOnly),
    "preshared_key": lambda value: SetPresharedKey(parse_key_or_none(value)),
    "endpoint": lambda value: SetEndpoint(*parse_endpoint(value)),
    "persistent_keepalive_interval": lambda value: SetKeepalive(parse_number(value, 0xFFFF)),
    "replace_allowed_ips": _flag(ReplaceAllowedIps),
    "protocol_version": _version,
    "cipher": lambda value: SetCipher(parse_cipher(value)),
    "offload": lambda value: SetOffload(parse_offload(value)),
}


# --- the state of a device, for the answer to get --------------------------------------------------


@record
class PeerInfo:
    """One peer of a get answer.

    ``endpoint`` is (ip of 4 or 16 bytes, port, scope) or None; ``last_handshake`` is nanoseconds since the
    epoch, 0 never; ``persistent_keepalive`` seconds, 0 off; ``allowed_ips`` (ip of 4 or 16 bytes, bits);
    ``cipher`` and ``offload`` are written only where they are not the default: ``wg`` does not know them.
    """

    public_key: bytes
    preshared_key: bytes | None = field(default=None, repr=False)
    endpoint: tuple[bytes, int, str] | None = None
    last_handshake: int = 0
    tx_bytes: int = 0
    rx_bytes: int = 0
    persistent_keepalive: int = 0
    allowed_ips: Iterable[tuple[bytes, int]] = ()
    cipher: Cipher = Cipher.CHACHA20_POLY1305
    offload: bool | None = None


@record
class DeviceInfo:
    """The device of a get answer. ``peers`` may be any iterable; it is walked once. ``paused`` and
    ``offload`` are written only where they are set: ``wg`` does not know them."""

    private_key: bytes | None = field(default=None, repr=False)
    listen_port: int = 0
    fwmark: int = 0
    peers: Iterable[PeerInfo] = ()
    paused: bool = False
    offload: bool | None = None


def format_endpoint(ip: bytes, port: int, scope: str = "") -> str:
    """``1.2.3.4:5``, ``[fd00::1]:5`` or ``[fe80::1%eth0]:5``. Raises ValueError for an ip of neither 4 nor
    16 bytes."""
    if len(ip) == 4:
        return f"{socket.inet_ntop(socket.AF_INET, ip)}:{port}"
    host = socket.inet_ntop(socket.AF_INET6, ip)
    return f"[{host}%{scope}]:{port}" if scope else f"[{host}]:{port}"


def format_prefix(ip: bytes, cidr: int) -> str:
    """ADDRESS/BITS."""
    return f"{socket.inet_ntop(socket.AF_INET if len(ip) == 4 else socket.AF_INET6, ip)}/{cidr}"
