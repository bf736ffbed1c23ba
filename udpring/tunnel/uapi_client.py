"""The client side of the UAPI over a UNIX socket, for ``udpring show`` and ``udpring up``.

One request per connection, as ``wg`` does. Blocking, with a bound on how long an answer may take.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import time
from collections.abc import Iterable
from typing import Literal, Protocol

from udpring.errors import HostError, UdpringError
from udpring.tunnel import uapi, uapi_report

__all__ = ["UapiClient", "UapiError", "interfaces"]

_CHUNK = 65536
ANSWER_MAX = 128 << 20
"""Bytes of an answer: 2 KiB for each of 65536 peers. A node that was taken over may send without end."""
ANSWER_SECONDS = 60.0
"""For the whole answer."""
_UNKNOWN = (errno.EOPNOTSUPP, errno.EINVAL, errno.EPROTO)


class UapiError(UdpringError, OSError):
    """The other end refused a request, with this ``errno``. ``misused``: because of a configuration."""

    def __init__(self, message: str, number: int, *, misused: bool = False) -> None:
        UdpringError.__init__(self, message)
        OSError.__init__(self, number, message)
        self.message = message
        self.misused = misused

    def __str__(self) -> str:
        return self.message


class Answer(Protocol):
    """A parser of an answer."""

    done: bool

    def feed(self, data: bytes) -> bool:
        """Takes the next bytes. Returns ``done``."""


class UapiClient:
    """Speaks to the process that serves one interface.

    ``timeout`` is in seconds and bounds each step. ANSWER_MAX and ANSWER_SECONDS bound an answer. Raises
    HostError if nothing answers (no such interface, no privilege), UapiError if the request was refused or
    the answer does not end, UapiProtocolError for a malformed answer.
    """

    def __init__(
        self,
        interface: str,
        directory: str | os.PathLike[str] = uapi.SOCKET_DIRECTORY,
        timeout: float = 10.0,
    ) -> None:
        if not interface or "/" in interface or "\0" in interface:
            raise HostError(f"{interface!r} is not an interface name", errno=errno.EINVAL)
        self.interface = interface
        self.path = f"{os.fspath(directory)}/{interface}.sock"
        self.timeout = timeout

    def get(self) -> uapi.DeviceInfo:
        """The device and its peers as they are now, keys included."""
        return self._exchange([b"get=1\n\n"]).state

    def set(self, operations: Iterable[uapi.SetOperation]) -> None:
        """Executes the operations in order. When one is refused, the earlier ones stay."""
        self._exchange(uapi.format_set(operations))

    def report(self, request: Literal["stats", "reload"]) -> dict[str, object]:
        """The report of a node (``uapi_report``). Raises HostError where the program that serves the
        interface does not answer such requests (EOPNOTSUPP) or its host refused, UapiError for any other
        failure, both with the node's own words."""
        answer = uapi_report.ReportParser()
        try:
            self._converse([f"{request}=1\n\n".encode()], answer)
        except uapi.UapiProtocolError:
            raise self._unanswered(request) from None
        if answer.errno in _UNKNOWN and "message" not in answer.report:
            raise self._unanswered(request)
        if answer.errno:
            message = answer.report.get("message") or f"refused: {os.strerror(answer.errno)}"
            text = f"{self.interface}: {message}"
            if answer.report.get("refused"):
                raise HostError(text, errno=answer.errno)
            raise UapiError(text, answer.errno, misused=bool(answer.report.get("misused")))
        return answer.report

    def _unanswered(self, request: str) -> HostError:
        return HostError(
            f"the program that serves {self.interface} does not answer {request} requests",
            errno=errno.EOPNOTSUPP,
            cure="run the interface by udpring up FILE" + (", or udpring-wg" if request == "stats" else ""),
        )

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        connection.settimeout(self.timeout)
        try:
            connection.connect(self.path)
        except PermissionError as failed:
            connection.close()
            raise HostError(
                f"no right to {self.path}", errno=failed.errno or errno.EACCES, cure="run this as root"
            ) from None
        except OSError as failed:
            connection.close()
            raise HostError(
                f"nothing serves the interface {self.interface} ({self.path}: {failed.strerror or failed})",
                errno=failed.errno or errno.ENOENT,
                cure="start it: udpring up FILE, or udpring-wg INTERFACE",
            ) from None
        return connection

    def _exchange(self, request: Iterable[bytes]) -> uapi.ResponseParser:
        answer = uapi.ResponseParser()
        self._converse(request, answer)
        if answer.errno:
            raise UapiError(f"{self.interface}: refused: {os.strerror(answer.errno)}", answer.errno)
        return answer

    def _converse(self, request: Iterable[bytes], answer: Answer) -> None:
        """Sends the request and feeds the answer."""
        try:
            with self._connect() as connection:
                with connection.makefile("wb", buffering=_CHUNK) as stream:
                    stream.writelines(request)
                size, until = 0, time.monotonic() + max(ANSWER_SECONDS, self.timeout)
                while not answer.done:
                    if size > ANSWER_MAX or time.monotonic() > until:
                        raise UapiError(
                            f"{self.interface}: the answer has no end: {size} bytes so far", errno.EMSGSIZE
                        )
                    data = connection.recv(_CHUNK)
                    size += len(data)
                    if not data:
                        raise uapi.UapiProtocolError(
                            f"{self.interface}: the connection ended inside the answer"
                        )
                    answer.feed(data)
        except (HostError, UapiError):
            raise
        except TimeoutError:
            raise UapiError(
                f"{self.interface}: no answer within {self.timeout:g} s", errno.ETIMEDOUT
            ) from None
        except OSError as failed:
            raise UapiError(
                f"{self.interface}: {failed.strerror or failed}", failed.errno or errno.EIO
            ) from None


def interfaces(directory: str | os.PathLike[str] = uapi.SOCKET_DIRECTORY) -> list[str]:
    """The names of the interfaces that a process serves. A socket file without a server is left out, not
    removed."""
    found = []
    from pathlib import Path  # noqa: PLC0415 - a node does not call this

    for path in sorted(Path(directory).glob("*.sock")):
        try:
            if not stat.S_ISSOCK(path.stat().st_mode):
                continue
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
                probe.settimeout(1.0)
                probe.connect(os.fspath(path))
        except PermissionError:
            pass  # it exists, and a query will report the problem
        except OSError:
            continue
        found.append(path.stem)
    return found
