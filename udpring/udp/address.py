"""Addresses between ``socket``'s tuples and the core's ``struct udpring_address``."""

from __future__ import annotations

import socket
import struct
import time
import typing
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import TYPE_CHECKING, Any, Self, overload

from udpring._native import ffi
from udpring.socket_address import Address

if TYPE_CHECKING:
    import asyncio

    from typing_extensions import TypeVar

    _A_co = TypeVar("_A_co", bound=Address | None, default=Address | None, covariant=True)
else:
    _A_co = typing.TypeVar("_A_co", covariant=True)

__all__ = [
    "Address",
    "AddressList",
    "SourceList",
    "family_of",
    "from_core",
    "host_from_core",
    "joined",
    "keep_name",
    "known_name",
    "look_up_name",
    "numeric_to_core",
    "sources",
    "to_core",
]

#: family, port, scope_id, ip: the layout of ``struct udpring_address``.
LAYOUT = struct.Struct("=HHI16s")
_CACHE_LIMIT = (
    65536  # addresses in the cache before it is emptied: a flood of sources must not fill the memory
)

if ffi.sizeof("struct udpring_address") != LAYOUT.size:  # pragma: no cover - a build against another header
    raise ImportError("udpring's compiled module and its Python code disagree about struct udpring_address")

NAME_SECONDS = 60.0
"""How long the address of a name is used before the name is looked up again."""

_NONE = bytes(LAYOUT.size)
#: Hosts that ``socket`` accepts without a look-up.
_SPECIAL: dict[tuple[str, int], str] = {
    ("", socket.AF_INET): "0.0.0.0",
    ("", socket.AF_INET6): "::",
    ("<broadcast>", socket.AF_INET): "255.255.255.255",
}
_from_cache: dict[tuple[bytes, bool], Address | None] = {}
_to_cache: dict[tuple[Address, int], bytes] = {}
#: Of names and zones: the address, and the time at which it is looked up again.
_names: dict[tuple[Address, int], tuple[bytes, float]] = {}


def family_of(sock: socket.socket) -> int:
    """The address family of a ring's socket. Raises TypeError where it is no socket."""
    try:
        return sock.family
    except AttributeError:
        raise TypeError(f"sock is a socket.socket, not {sock!r}") from None


def _host(family: int, ip: bytes, ipv6_socket: bool) -> str:
    if family == socket.AF_INET:
        text = socket.inet_ntop(socket.AF_INET, ip[:4])
        return f"::ffff:{text}" if ipv6_socket else text
    return socket.inet_ntop(socket.AF_INET6, ip)


def from_core(raw: bytes, ipv6_socket: bool) -> Address | None:
    """The tuple that ``recvfrom`` of such a socket returns for it; None: the kernel gave no address."""
    key = (raw, ipv6_socket)
    try:
        return _from_cache[key]
    except KeyError:
        pass
    family, port, scope, ip = LAYOUT.unpack(raw)
    address: Address | None = None
    if family:
        host = _host(family, ip, ipv6_socket)
        address = (host, port, 0, scope) if ipv6_socket else (host, port)
    if len(_from_cache) >= _CACHE_LIMIT:
        _from_cache.clear()
    _from_cache[key] = address
    return address


def host_from_core(raw: bytes, ipv6_socket: bool) -> str | None:
    """Only the host part; None for an unknown address."""
    address = from_core(raw, ipv6_socket)
    return None if address is None else address[0]


def _numeric(address: Address, socket_family: int) -> bytes | None:
    """None: the host has to be looked up."""
    host: object = address[0] if isinstance(address, tuple) and 2 <= len(address) <= 4 else None
    if isinstance(host, (bytes, bytearray)):  # as socket takes it
        host = host.decode("ascii")
    if not isinstance(host, str):
        raise TypeError(f"an address is (host, port) or (host, port, flowinfo, scope_id), not {address!r}")
    port = address[1]
    if not isinstance(port, int):
        raise TypeError(f"a port is an integer: {address!r}")
    if not 0 <= port <= 65535:
        raise OverflowError(f"port must be 0-65535: {address!r}")
    flow, scope = (*address[2:], 0, 0)[:2]
    if not isinstance(flow, int) or not isinstance(scope, int):
        raise TypeError(f"flowinfo and scope_id are integers: {address!r}")
    if not (0 <= flow <= 0xFFFFF and 0 <= scope <= 0xFFFFFFFF):
        raise OverflowError(f"flowinfo must be 0-1048575 and scope_id 0-4294967295: {address!r}")
    host = _SPECIAL.get((host, socket_family), host)
    try:
        return LAYOUT.pack(socket.AF_INET, port, 0, socket.inet_pton(socket.AF_INET, host))
    except OSError:
        pass
    if socket_family == socket.AF_INET6:
        try:
            packed = socket.inet_pton(socket.AF_INET6, host)
        except OSError:
            pass
        else:
            if packed[:12] == b"\0" * 10 + b"\xff\xff":
                return LAYOUT.pack(socket.AF_INET, port, 0, packed[12:])
            return LAYOUT.pack(socket.AF_INET6, port, scope, packed)
    return None


def _question(address: Address, socket_family: int) -> tuple[Any, ...]:
    """The arguments of getaddrinfo(3)."""
    flags = socket.AI_V4MAPPED if socket_family == socket.AF_INET6 else 0
    return address[0], address[1], socket_family, socket.SOCK_DGRAM, 0, flags


def _answered(found: Any, address: Address, socket_family: int) -> bytes:
    """Keeps the first address that was found, and returns it packed."""
    first = found[0][4]
    resolved: Address = (str(first[0]), int(first[1]))
    if len(first) == 4:
        scope = address[3] if len(address) == 4 else 0
        resolved = (str(first[0]).partition("%")[0], int(first[1]), 0, int(first[3]) or scope)
    raw = _numeric(resolved, socket_family)
    assert raw is not None
    if len(_names) >= _CACHE_LIMIT:
        _names.clear()
    _names[address, socket_family] = raw, time.monotonic() + NAME_SECONDS
    return raw


def numeric_to_core(address: Address, socket_family: int) -> bytes | None:
    """``to_core`` without a look-up. None: the address is a name, or has a zone."""
    key = (address, socket_family)
    try:
        return _to_cache[key]
    except (KeyError, TypeError):
        pass
    raw = _numeric(address, socket_family)
    if raw is not None:
        if len(_to_cache) >= _CACHE_LIMIT:
            _to_cache.clear()
        _to_cache[key] = raw
    return raw


def to_core(address: Address, socket_family: int) -> bytes:
    """The bytes of ``struct udpring_address`` for an address as ``sendto`` accepts it.

    A numeric host needs no look-up (an IPv4 one also works for an IPv6 socket). "" and "<broadcast>" mean
    what they mean to ``socket``. The flow label is ignored.
    A name, or an address with a zone (``fe80::1%eth0``), is looked up by getaddrinfo(3), which blocks, and
    again when ``NAME_SECONDS`` (60) have passed.
    Raises TypeError or OverflowError for a malformed address, ``socket.gaierror`` for an unknown name.
    """
    key = (address, socket_family)
    try:
        return _to_cache[key]
    except (KeyError, TypeError):
        pass
    known = _names.get(key) if type(address) is tuple else None
    if known is not None and time.monotonic() < known[1]:
        return known[0]
    raw = numeric_to_core(address, socket_family)
    if raw is not None:
        return raw
    return _answered(socket.getaddrinfo(*_question(address, socket_family)), address, socket_family)


def known_name(address: Address, socket_family: int) -> tuple[bytes, float] | None:
    """The packed address of a name, and the time.monotonic() until which it is good. None: unknown."""
    return _names.get((address, socket_family))


async def look_up_name(loop: asyncio.AbstractEventLoop, address: Address, socket_family: int) -> None:
    """Looks a name up without blocking the loop. ``known_name`` has it then. Raises as ``to_core``."""
    host, port, family, kind, proto, flags = _question(address, socket_family)
    found = await loop.getaddrinfo(host, port, family=family, type=kind, proto=proto, flags=flags)
    _answered(found, address, socket_family)


def keep_name(address: Address, socket_family: int, seconds: float | None) -> None:
    """After a look-up that failed: the known address is good for these seconds; None: it is forgotten."""
    known = _names.pop((address, socket_family), None)
    if known is not None and seconds is not None:
        _names[address, socket_family] = known[0], time.monotonic() + seconds


class AddressList(Sequence[_A_co]):
    """Packed addresses: a sequence of tuples as from ``recvfrom``, without a Python object for each.

    addresses: tuples as ``sendto`` takes them. Names are looked up here (getaddrinfo(3)), and
        the list keeps what was found.
    family: AF_INET or AF_INET6, of the socket they belong to. It decides how they read.

    ``batch.addresses`` is one (``SourceList``), and ``SendRing`` takes one. An item of None means the peer of
    a connected socket. The list is immutable. Its slices are lists of the same class. It equals any sequence
    of the same addresses.
    Raises TypeError or OverflowError for a malformed address, ``socket.gaierror`` for an unknown name.
    """

    __slots__ = ("_ipv6", "_packed")

    def __init__(self, addresses: Iterable[Address | None] = (), family: int = socket.AF_INET) -> None:
        if family not in (socket.AF_INET, socket.AF_INET6):
            raise ValueError(f"family is AF_INET or AF_INET6, not {family!r}")
        self._ipv6 = family == socket.AF_INET6
        self._packed = b"".join(
            [_NONE if address is None else to_core(address, family) for address in addresses]
        )

    @classmethod
    def of_packed(cls, packed: bytes, family: int) -> Self:
        """From the bytes of ``struct udpring_address``es, one after the other."""
        if len(packed) % LAYOUT.size:
            raise ValueError(f"{len(packed)} bytes are not a multiple of the address size {LAYOUT.size}")
        made = cls.__new__(cls)
        made._ipv6 = family == socket.AF_INET6
        made._packed = packed
        return made

    @property
    def packed(self) -> bytes:
        """The bytes of ``struct udpring_address``es, one after the other."""
        return self._packed

    @property
    def family(self) -> int:
        """AF_INET or AF_INET6: that of the socket."""
        return socket.AF_INET6 if self._ipv6 else socket.AF_INET

    @overload
    def __getitem__(self, index: int) -> _A_co: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> _A_co | Self:
        size, count = LAYOUT.size, len(self)
        if isinstance(index, slice):
            start, stop, step = index.indices(count)
            if step == 1:
                packed = self._packed[start * size : stop * size]
            else:
                packed = b"".join(
                    [self._packed[at * size : at * size + size] for at in range(start, stop, step)]
                )
            return type(self).of_packed(packed, self.family)
        if not -count <= index < count:
            raise IndexError(f"address {index} of a list of {count}")
        at = index % count * size
        unpacked: Any = from_core
        address: _A_co = unpacked(self._packed[at : at + size], self._ipv6)
        return address

    def __iter__(self) -> Iterator[_A_co]:
        packed, ipv6, size = self._packed, self._ipv6, LAYOUT.size
        unpacked: Any = from_core
        for at in range(0, len(packed), size):
            yield unpacked(packed[at : at + size], ipv6)

    def __len__(self) -> int:
        return len(self._packed) // LAYOUT.size

    def __eq__(self, other: object) -> bool:
        if isinstance(other, AddressList) and other._ipv6 == self._ipv6:
            return self._packed == other._packed
        if isinstance(other, Sequence) and not isinstance(other, (str, bytes)):
            return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        return NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self)!r})"


class SourceList(AddressList[Address]):
    """The sources of received datagrams. None of them is None, because each datagram of UDP has a source."""

    __slots__ = ()

    def paired_with(self, payloads: list[bytes]) -> Iterator[tuple[bytes, Address]]:
        """Each payload with its source. There is one source for each."""
        packed = self.packed
        if packed == packed[: LAYOUT.size] * len(payloads):  # often one flow: a train
            return zip(payloads, repeat(self[0]), strict=False)
        return zip(payloads, self, strict=True)


def sources(packed: bytes, ipv6: bool) -> SourceList:
    """The list for whole packed addresses. ``ipv6``: of an AF_INET6 socket."""
    made = SourceList.__new__(SourceList)
    made._ipv6 = ipv6
    made._packed = packed
    return made


def joined(packed: list[bytes], family: int) -> Address | AddressList | None:
    """What ``send_batch`` takes for these packed addresses. One for all where they are equal; none: None."""
    if not packed:
        return None
    if packed.count(packed[0]) == len(packed):
        packed = packed[:1]
    several = AddressList.of_packed(b"".join(packed), family)
    return several if len(packed) > 1 else several[0]
