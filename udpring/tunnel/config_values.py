"""One value of a configuration file: its text and place, and the rule of each kind of value.

Every ``parse_...`` raises ``BadValueError``, or the ConfigError of a dataclass in ``config``.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from udpring.tunnel.config import BLANKS, SCOPE, Endpoint, InterfaceAddress, IPAddress, Network
from udpring.tunnel.keys import KeyFormatError, from_base64
from udpring.wireguard.cipher import Cipher

_BLANKS = re.compile(r"[ \t\r\v\f]+")
_ITEM = re.compile(r"[^, \t\r\v\f]+")
_DECIMAL = re.compile(r"[0-9]{1,20}")
_SERVICE = re.compile(r"(?=.*[a-z])[a-z0-9-]{1,32}", re.IGNORECASE | re.ASCII)
_FWMARK = re.compile(r"(?:0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})")


def without_blanks(text: str) -> str:
    """Without any blank, as ``wg`` reads its keys and values."""
    return _BLANKS.sub("", text)


@dataclass(slots=True)
class Value:
    """The value of one line and its place."""

    line: int
    column: int
    """Of the first character of ``text``, from 1."""
    text: str

    @property
    def compact(self) -> str:
        """Without any blank, as ``wg`` reads it."""
        return without_blanks(self.text)

    def items(self) -> Iterator[Value]:
        """The parts between commas, stripped. Empty parts are included."""
        start = 0
        for part in self.text.split(","):
            lead = len(part) - len(part.lstrip(BLANKS))
            yield Value(self.line, self.column + start + lead, part.strip(BLANKS))
            start += len(part) + 1

    def words(self) -> Iterator[Value]:
        """The parts between commas or blanks, as ``wg-quick`` splits Address and DNS."""
        for found in _ITEM.finditer(self.text):
            yield Value(self.line, self.column + found.start(), found.group())


class BadValueError(Exception):
    """A rule's refusal. ``secret`` keeps the text out of the message."""

    def __init__(
        self, message: str, cure: str = "", value: Value | None = None, secret: bool = False
    ) -> None:
        super().__init__(message)
        self.message = message
        self.cure = cure
        self.value = value
        self.secret = secret


def parse_key(value: Value, secret: bool) -> bytes:
    """The key of base64 text. If it is ``secret``, the error shows nothing of the text."""
    text = value.compact
    try:
        return from_base64(text)
    except KeyFormatError as wrong:
        # Blanks inside would shift the position, so the error names the start.
        shift = min(wrong.position, len(text)) if text == value.text else 0
        at = Value(value.line, value.column + (shift if secret else 0), value.text)
        cure = "44 base64 characters, as genkey prints"
        raise BadValueError(f"not a key: {wrong}", cure, at, secret=secret) from None


def parse_number(value: Value, least: int, most: int, also: str = "") -> int:
    """A decimal number in its bounds; ``also`` completes the refusal."""
    text = value.compact
    if not _DECIMAL.fullmatch(text) or not least <= int(text) <= most:
        raise BadValueError(f"not a number from {least} to {most}{also}")
    return int(text)


def parse_port(value: Value, text: str, least: int) -> int:
    """A UDP port by its number, or by its name in /etc/services."""
    if _SERVICE.fullmatch(text):
        try:
            return socket.getservbyname(text, "udp")
        except OSError:
            raise BadValueError(
                f"/etc/services has no UDP port of the name {text}", "write its number"
            ) from None
    if not _DECIMAL.fullmatch(text) or not least <= int(text) <= 0xFFFF:
        raise BadValueError(f"the port is not a number from {least} to 65535", "or a name of /etc/services")
    return int(text)


def parse_fwmark(value: Value) -> int:
    """A mark of 32 bits, decimal or 0x; ``off`` is 0."""
    text = value.compact
    if text.lower() == "off":
        return 0
    base = 16 if text[:2].lower() == "0x" else 10
    if not _FWMARK.fullmatch(text) or int(text, base) > 0xFFFFFFFF:
        raise BadValueError("not a mark", "'off', or 0 to 0xffffffff")
    return int(text, base)


def parse_keepalive(value: Value) -> int:
    """Seconds; ``off`` is 0."""
    return 0 if value.compact.lower() == "off" else parse_number(value, 0, 0xFFFF, " (seconds) or 'off'")


def parse_cipher(value: Value) -> Cipher:
    """The cipher of that name, in any case."""
    try:
        return Cipher(value.compact.lower())
    except ValueError:
        raise BadValueError("no such cipher", f"there are {', '.join(Cipher)}") from None


def parse_offload(value: Value) -> bool | None:
    """``on``, ``off``, or ``auto`` (None)."""
    words = {"on": True, "off": False, "auto": None}
    if value.compact.lower() not in words:
        raise BadValueError("not an offload setting", "'on', 'off' or 'auto'")
    return words[value.compact.lower()]


def parse_ip(text: str, value: Value) -> tuple[int, int]:
    """(4 or 6, the address as a number)."""
    version, family = (6, socket.AF_INET6) if ":" in text else (4, socket.AF_INET)
    try:
        return version, int.from_bytes(socket.inet_pton(family, text), "big")
    except (OSError, ValueError):
        raise BadValueError("not an IP address", value=value) from None


def parse_scoped_ip(value: Value) -> IPAddress:
    """An address, that of a link perhaps with its interface: fe80::1%eth0."""
    text, percent, scope = value.text.partition("%")
    version, number = parse_ip(text, value)
    if not percent:
        return ipaddress.IPv4Address(number) if version == 4 else ipaddress.IPv6Address(number)
    if version == 4 or not SCOPE.fullmatch(scope):
        raise BadValueError("the address's scope is not an interface", "fe80::1%eth0", value)
    return ipaddress.IPv6Address(f"{ipaddress.IPv6Address(number)}%{scope}")


def parse_bits(text: str, version: int, value: Value) -> int:
    """A prefix length of an address of this version."""
    width = 32 if version == 4 else 128
    if not _DECIMAL.fullmatch(text) or int(text) > width:
        raise BadValueError(f"the prefix length is not from 0 to {width}", value=value)
    return int(text)


def parse_network(value: Value) -> tuple[Network, bool]:
    """The network and whether it had host bits."""
    text, slash, bits_text = value.compact.partition("/")
    if not text:
        raise BadValueError("an empty entry", "remove the extra comma", value)
    version, number = parse_ip(text, value)
    width = 32 if version == 4 else 128
    bits = parse_bits(bits_text, version, value) if slash else width
    masked = number >> (width - bits) << (width - bits)
    network = ipaddress.IPv4Network((masked, bits)) if version == 4 else ipaddress.IPv6Network((masked, bits))
    return network, masked != number


def parse_interface_address(value: Value) -> InterfaceAddress:
    """An address with a prefix length or dotted mask; without one, a host."""
    text, slash, bits_text = value.text.partition("/")
    version, number = parse_ip(text, value)
    if version == 6:
        return ipaddress.IPv6Interface((number, parse_bits(bits_text, 6, value) if slash else 128))
    if "." in bits_text:  # ip(8) takes a dotted mask, too
        mask = parse_ip(bits_text, value)[1]
        inverse = mask ^ 0xFFFFFFFF
        if inverse & (inverse + 1):
            raise BadValueError("the netmask has holes", "write the prefix length: /24", value)
        return ipaddress.IPv4Interface((number, 32 - inverse.bit_length()))
    return ipaddress.IPv4Interface((number, parse_bits(bits_text, 4, value) if slash else 32))


def parse_endpoint(value: Value) -> tuple[Endpoint, bool]:
    """The endpoint and whether it is an IPv6 address without its brackets (``wg`` takes that)."""
    host, colon, port_text = value.compact.rpartition(":")
    if not colon or not host or not port_text or port_text.endswith("]"):
        raise BadValueError("the endpoint has no port", "HOST:PORT, or [IPV6]:PORT")
    bracketed = host.startswith("[") or host.endswith("]")
    if bracketed:
        if not (host.startswith("[") and host.endswith("]")) or ":" not in host:
            raise BadValueError("the text in brackets is not an IPv6 address", "[IPV6]:PORT")
        host = host[1:-1]
    return Endpoint(host, parse_port(value, port_text, 1)), ":" in host and not bracketed


def parse_boolean(value: Value) -> bool:
    """``true`` or ``false``."""
    text = value.compact.lower()
    if text not in ("true", "false"):
        raise BadValueError("neither 'true' nor 'false'")
    return text == "true"
