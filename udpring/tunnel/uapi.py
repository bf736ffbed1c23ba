"""The cross-platform configuration protocol (UAPI) between ``wg`` and a userspace WireGuard, as a codec
without I/O.

Source: www.wireguard.com/xplatform; reference client: wireguard-tools ``src/ipc-uapi.h``. The flow at the
server:

1. Bytes from a connection go to ``RequestParser.feed``, which returns an iterator of typed operations.
2. The server carries out each operation before it takes the next. There is no transaction: after a bad line
   the earlier lines stay applied and the later ones are skipped.
3. Where an operation fails (a port in use), the server calls ``RequestParser.fail``, which skips the rest of
   the request up to its blank line.
4. ``GetRequest`` is answered with ``uapi_text.get_answer``, ``ReportRequest`` with
   ``uapi_report.format_report``;
   ``EndRequest`` with ``format_status``. Then the next request may follow.
5. At end of file the server calls ``RequestParser.close``. A connection closed without a byte (a probe of
   ``wg``) gives nothing.

The parser holds only the current line of a request, so 130 000 ``allowed_ip`` lines cost no memory here.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from typing import ClassVar, assert_never

from udpring.tunnel.socket_path import SOCKET_DIRECTORY
from udpring.tunnel.uapi_lines import MAX_LINE, Lines, UapiProtocolError
from udpring.tunnel.uapi_values import (
    DEVICE_KEYS,
    NO_KEY,
    OFFLOAD_WORDS,
    PEER_KEYS,
    REQUESTS,
    SCOPE_ID_MAX,
    AllowedIp,
    BadValueError,
    DeviceInfo,
    EndRequest,
    GetRequest,
    Operation,
    PeerBegin,
    PeerInfo,
    PeerRemove,
    PeerSetting,
    PeerUpdateOnly,
    ProtocolVersion,
    ReplaceAllowedIps,
    ReplacePeers,
    ReportRequest,
    RequestName,
    SetCipher,
    SetDeviceOffload,
    SetEndpoint,
    SetFwmark,
    SetKeepalive,
    SetListenPort,
    SetOffload,
    SetOperation,
    SetPaused,
    SetPresharedKey,
    SetPrivateKey,
    format_endpoint,
    format_prefix,
    parse_cipher,
    parse_endpoint,
    parse_flag,
    parse_key,
    parse_key_or_none,
    parse_number,
    parse_offload,
    parse_prefix,
)
from udpring.wireguard.cipher import Cipher

__all__ = [
    "MAX_LINE",
    "OFFLOAD_WORDS",
    "SCOPE_ID_MAX",
    "SOCKET_DIRECTORY",
    "AllowedIp",
    "DeviceInfo",
    "EndRequest",
    "GetRequest",
    "Operation",
    "PeerBegin",
    "PeerInfo",
    "PeerRemove",
    "PeerSetting",
    "PeerUpdateOnly",
    "ProtocolVersion",
    "ReplaceAllowedIps",
    "ReplacePeers",
    "ReportRequest",
    "RequestParser",
    "ResponseParser",
    "SetCipher",
    "SetDeviceOffload",
    "SetEndpoint",
    "SetFwmark",
    "SetKeepalive",
    "SetListenPort",
    "SetOffload",
    "SetOperation",
    "SetPaused",
    "SetPresharedKey",
    "SetPrivateKey",
    "UapiProtocolError",
    "format_endpoint",
    "format_prefix",
    "format_set",
    "format_status",
]


class RequestParser:
    """Parses the requests of one connection. Pass arriving bytes to ``feed``, execute the operations that it
    yields, and call ``close`` at the end of file."""

    def __init__(self) -> None:
        self._lines = Lines()
        self._request: RequestName | None = None
        self._in_peer = False
        self._line_number = 0
        self._errno = 0
        self._message = ""
        self._broken = False

    @property
    def within_request(self) -> bool:
        """Whether a request has begun and not ended. A part of its first line is enough."""
        return self._request is not None or self._lines.unfinished

    @property
    def expects_peer(self) -> bool:
        """Whether the lines of a peer may begin here: in a set request that has not failed, at the beginning
        of a line."""
        return self._request == "set" and not self._errno and not self._broken and not self._lines.unfinished

    def skip_peers(self, lines: int) -> None:
        """Lines of peers were taken from the stream, and are not fed."""
        self._line_number += lines
        self._in_peer = True

    def feed(self, data: bytes) -> Iterator[Operation]:
        """Operations of all complete lines so far, parsed one by one as the iterator advances.

        Take every item before feeding again. Raises UapiProtocolError for a line that opens no known request.
        """
        self._lines.feed(data)
        return self._operations()

    def fail(self, number: int, message: str = "") -> None:
        """The last operation failed with the positive errno ``number``. Skips the rest of the request."""
        if self._request is not None and not self._errno:
            self._errno = abs(number)
            self._message = message

    def close(self) -> Iterator[Operation]:
        """End of file. A truncated request ends with EPROTO; its complete lines stay applied."""
        if self._request is not None and not self._broken:
            if not self._errno:
                self._set_error(errno.EPROTO, "the connection ended inside the request")
            yield self._end()
        self._broken = True

    def _operations(self) -> Iterator[Operation]:
        if self._broken:
            raise UapiProtocolError("the connection was given up or closed")
        for line in self._lines:
            if self._request is None:
                self._open(line)
                continue
            self._line_number += 1
            if line == b"":
                if self._request != "set" and not self._errno:
                    yield GetRequest() if self._request == "get" else ReportRequest(self._request)
                yield self._end()
            elif not self._errno:
                operation = self._setting(line)
                if operation is not None:
                    yield operation

    def _open(self, line: bytes | None) -> None:
        if line == b"":
            return
        self._request = None if line is None else REQUESTS.get(line)
        if self._request is None:
            self._broken = True
            raise UapiProtocolError("a request starts with get=1 or set=1")
        self._in_peer = False
        self._line_number = 1
        self._errno = 0
        self._message = ""

    def _end(self) -> EndRequest:
        assert self._request is not None
        end = EndRequest(self._request, self._errno, self._message)
        self._request = None
        return end

    def _set_error(self, number: int, what: str) -> None:
        self._errno = number
        self._message = f"line {self._line_number} of {self._request}: {what}"

    def _setting(self, line: bytes | None) -> SetOperation | None:
        """One line of a request. None if it was wrong, which fails the request."""
        if line is None:
            self._set_error(errno.EINVAL, f"longer than {MAX_LINE} bytes")
            return None
        if self._request != "set":
            self._set_error(errno.EINVAL, f"{self._request} takes no settings")
            return None
        key_bytes, equals, value_bytes = line.partition(b"=")
        if not equals:
            self._set_error(errno.EPROTO, "not KEY=VALUE")
            return None
        key = key_bytes.decode("ascii", "replace")
        try:
            value = value_bytes.decode("ascii")
            if key == "public_key":
                public_key = parse_key(value)
                self._in_peer = True
                return PeerBegin(public_key)
            known = PEER_KEYS if self._in_peer else DEVICE_KEYS
            if key not in known:
                place = "peer" if self._in_peer else "device"
                self._set_error(errno.EINVAL, f"unknown {place} key {key[:32]!r}")
                return None
            return known[key](value)
        except BadValueError as wrong:
            self._set_error(errno.EINVAL, f"{key}: {wrong}")
        except UnicodeDecodeError:
            self._set_error(errno.EINVAL, f"{key[:32]!r}: not ASCII")
        except MemoryError:
            self._set_error(errno.ENOMEM, "no memory")
        return None


# --- the answer ---


def format_status(end: EndRequest) -> bytes:
    """``errno=N`` and the blank line: N negative after a failed set (``wg`` negates it), positive after a
    failed get or report."""
    return b"errno=%d\n\n" % (-end.errno if end.request == "set" else end.errno)


# --- the client's side ----------------------------------------------------------------------------


def format_set(operations: Iterable[SetOperation]) -> Iterator[bytes]:
    """A set request, line by line, from its first line to the blank one."""
    yield b"set=1\n"
    for operation in operations:
        yield _format_operation(operation).encode() + b"\n"
    yield b"\n"


def _format_operation(operation: SetOperation) -> str:
    match operation:
        case AllowedIp(_, ip, cidr, remove):
            return f"allowed_ip={'-' if remove else ''}{format_prefix(ip, cidr)}"
        case SetPrivateKey(key):
            return f"private_key={(key or NO_KEY).hex()}"
        case SetListenPort(port):
            return f"listen_port={port}"
        case SetFwmark(mark):
            return f"fwmark={mark}"
        case SetPaused(paused):
            return f"paused={'true' if paused else 'false'}"
        case ReplacePeers():
            return "replace_peers=true"
        case PeerBegin(public_key):
            return f"public_key={public_key.hex()}"
        case PeerRemove():
            return "remove=true"
        case PeerUpdateOnly():
            return "update_only=true"
        case SetPresharedKey(key):
            return f"preshared_key={(key or NO_KEY).hex()}"
        case SetEndpoint(ip, port, scope):
            return f"endpoint={format_endpoint(ip, port, scope)}"
        case SetKeepalive(seconds):
            return f"persistent_keepalive_interval={seconds}"
        case ReplaceAllowedIps():
            return "replace_allowed_ips=true"
        case ProtocolVersion(version):
            return f"protocol_version={version}"
        case SetCipher(cipher):
            return f"cipher={cipher}"
        case SetOffload(on) | SetDeviceOffload(on):
            return f"offload={OFFLOAD_WORDS[on]}"
        case _:
            assert_never(operation)  # mypy: an operation without a line


class ResponseParser:
    """The answer to one request. ``feed`` until ``done``. Then ``errno`` and ``state`` hold it.

    Unknown keys are skipped, as by ``wg``. Raises UapiProtocolError if it cannot be an answer.
    """

    def __init__(self) -> None:
        self._lines = Lines()
        self._device: dict[str, int] = {}
        self._private_key: bytes | None = None
        self._paused = False
        self._offload: bool | None = None
        self._peers: list[PeerInfo] = []
        self._peer: _PeerFields | None = None
        self.done = False
        self.errno: int | None = None
        """Positive. 0 for success. None until it was read."""

    @property
    def state(self) -> DeviceInfo:
        """The device, after a get that succeeded."""
        return DeviceInfo(
            self._private_key,
            self._device.get("listen_port", 0),
            self._device.get("fwmark", 0),
            tuple(self._peers),
            self._paused,
            self._offload,
        )

    def feed(self, data: bytes) -> bool:
        """Returns ``done``. Bytes after the blank line are an error: one request, one answer."""
        self._lines.feed(data)
        for line in self._lines:
            if self.done:
                raise UapiProtocolError("bytes after the end of the answer")
            if line is None:
                raise UapiProtocolError(f"a line of the answer has more than {MAX_LINE} bytes")
            if line == b"":
                if self.errno is None:
                    raise UapiProtocolError("the answer ends without errno")
                self._finish_peer()
                self.done = True
                continue
            key, equals, value = line.decode("ascii", "replace").partition("=")
            if not equals:
                raise UapiProtocolError("a line of the answer is not KEY=VALUE")
            try:
                self._take(key, value)
            except BadValueError as wrong:
                raise UapiProtocolError(f"the answer's {key[:32]} is {wrong}") from None
        if self.done and self._lines.unfinished:
            raise UapiProtocolError("bytes after the end of the answer")
        return self.done

    def _finish_peer(self) -> None:
        if self._peer is not None:
            self._peers.append(self._peer.freeze())
            self._peer = None

    def _take(self, key: str, value: str) -> None:
        if key == "errno":
            self.errno = parse_number(value.removeprefix("-"), 0x7FFFFFFF)
        elif key == "public_key":
            self._finish_peer()
            self._peer = _PeerFields(parse_key(value))
        elif self._peer is not None:
            self._peer.take(key, value)
        elif key == "private_key":
            self._private_key = parse_key_or_none(value)
        elif key == "paused":
            self._paused = parse_flag(value)
        elif key == "offload":
            self._offload = parse_offload(value)
        elif key in ("listen_port", "fwmark"):
            self._device[key] = parse_number(value, 0xFFFF if key == "listen_port" else 0xFFFFFFFF)


class _PeerFields:
    """A peer of an answer while its lines come in."""

    _NUMBERS: ClassVar[dict[str, int]] = {
        "persistent_keepalive_interval": 0xFFFF,
        "last_handshake_time_sec": (1 << 63) - 1,
        "last_handshake_time_nsec": (1 << 63) - 1,
        "rx_bytes": (1 << 64) - 1,
        "tx_bytes": (1 << 64) - 1,
    }

    def __init__(self, public_key: bytes) -> None:
        self.public_key = public_key
        self.preshared_key: bytes | None = None
        self.endpoint: tuple[bytes, int, str] | None = None
        self.numbers: dict[str, int] = {}
        self.allowed_ips: list[tuple[bytes, int]] = []
        self.cipher = Cipher.CHACHA20_POLY1305
        self.offload: bool | None = None

    def take(self, key: str, value: str) -> None:
        if key == "allowed_ip":
            _, ip, cidr = parse_prefix(value)
            self.allowed_ips.append((ip, cidr))
        elif key == "preshared_key":
            self.preshared_key = parse_key_or_none(value)
        elif key == "endpoint":
            self.endpoint = parse_endpoint(value)
        elif key == "cipher":
            self.cipher = parse_cipher(value)
        elif key == "offload":
            self.offload = parse_offload(value)
        elif key in self._NUMBERS:
            self.numbers[key] = parse_number(value, self._NUMBERS[key])

    def freeze(self) -> PeerInfo:
        number = self.numbers.get
        handshake = number("last_handshake_time_sec", 0) * 1_000_000_000 + number(
            "last_handshake_time_nsec", 0
        )
        return PeerInfo(
            self.public_key,
            self.preshared_key,
            self.endpoint,
            handshake,
            number("tx_bytes", 0),
            number("rx_bytes", 0),
            number("persistent_keepalive_interval", 0),
            tuple(self.allowed_ips),
            self.cipher,
            self.offload,
        )
