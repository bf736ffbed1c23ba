"""SOCKS 5, the part of a server, sans-IO: CONNECT without authentication. Source: RFC 1928."""

from __future__ import annotations

import errno
import ipaddress
import socket
from dataclasses import dataclass

__all__ = ["Greeting", "Request", "SocksError", "error_code", "reply"]

VERSION = 5
NO_AUTHENTICATION, NONE_ACCEPTABLE = 0, 0xFF
CONNECT = 1
IPV4, NAME, IPV6 = 1, 3, 4
SUCCEEDED, FAILED, NETWORK_UNREACHABLE, HOST_UNREACHABLE, REFUSED = 0, 1, 3, 4, 5
COMMAND_UNSUPPORTED, ADDRESS_UNSUPPORTED = 7, 8

_CODES = {
    errno.ENETUNREACH: NETWORK_UNREACHABLE,
    errno.EHOSTUNREACH: HOST_UNREACHABLE,
    errno.ETIMEDOUT: HOST_UNREACHABLE,
    errno.ECONNREFUSED: REFUSED,
}


class SocksError(Exception):
    """The client requests something that is not served. ``answer``: to send before closing."""

    def __init__(self, text: str, answer: bytes = b"") -> None:
        super().__init__(text)
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Greeting:
    """The client's first message. ``answer``: of the server."""

    answer: bytes = bytes((VERSION, NO_AUTHENTICATION))

    @staticmethod
    def parse(data: bytes) -> tuple[Greeting, int] | None:
        """The greeting, and how many bytes it has. None: more bytes are needed. Raises SocksError."""
        if data[:1] and data[0] != VERSION:
            raise SocksError(f"version {data[0]} of SOCKS: only 5 is served")
        if len(data) < 2 or len(data) < 2 + data[1]:
            return None
        end = 2 + data[1]
        if NO_AUTHENTICATION not in data[2:end]:
            raise SocksError("the client wants authentication", bytes((VERSION, NONE_ACCEPTABLE)))
        return Greeting(), end


@dataclass(frozen=True, slots=True)
class Request:
    """A request to connect to ``host`` (a name or a number) and ``port``."""

    host: str
    port: int

    @staticmethod
    def parse(data: bytes) -> tuple[Request, int] | None:
        """The request, and how many bytes it has. None: more bytes are needed. Raises SocksError."""
        if data[:1] and data[0] != VERSION:
            raise SocksError(f"version {data[0]} of a SOCKS request: only 5 is served")
        if len(data) < 5:
            return None
        kind = data[3]
        if kind not in (IPV4, NAME, IPV6):
            raise SocksError(f"address of type {kind}", reply(ADDRESS_UNSUPPORTED))
        start = 5 if kind == NAME else 4
        length = {IPV4: 4, NAME: data[4], IPV6: 16}[kind]
        end = start + length + 2
        if len(data) < end:
            return None
        if data[1] != CONNECT:
            raise SocksError(f"command {data[1]}: only CONNECT is served", reply(COMMAND_UNSUPPORTED))
        raw = data[start : start + length]
        if kind == NAME:
            try:
                host = raw.decode("ascii")
            except UnicodeDecodeError:
                host = ""
            if not host or not host.isprintable():
                raise SocksError("a name that is not printable ASCII", reply(HOST_UNREACHABLE))
        else:
            host = str(ipaddress.ip_address(raw))
        return Request(host, int.from_bytes(data[end - 2 : end], "big")), end


def reply(code: int, bound: tuple[str, int] = ("0.0.0.0", 0)) -> bytes:
    """The answer to a request. ``bound``: the address and port that the connection comes from."""
    address = ipaddress.ip_address(bound[0])
    kind = IPV4 if address.version == 4 else IPV6
    return bytes((VERSION, code, 0, kind)) + address.packed + bound[1].to_bytes(2, "big")


def error_code(failed: OSError) -> int:
    """The code of a connection that could not be made."""
    if isinstance(failed, socket.gaierror | TimeoutError):
        return HOST_UNREACHABLE
    return _CODES.get(failed.errno or 0, FAILED)
