"""A name server that knows a few names. It answers A and AAAA questions over UDP and records the
questions."""

from __future__ import annotations

import ipaddress
import socket
import struct
import threading
from types import TracebackType

from lab.space import Space

KINDS = {1: 4, 28: 6}
"""The IP version by the type of a question (RFC 1035, RFC 3596)."""


class NameServer:
    """Serves ``table`` (addresses by name) at port 53 of ``address`` while it is entered."""

    def __init__(self, space: Space, address: str, table: dict[str, list[str]]) -> None:
        self._table = table
        self._socket = space.socket(address, socket.SOCK_DGRAM, 53)
        self._socket.settimeout(0.2)
        self._quit = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._serve)
        self.asked: set[str] = set()
        self.askers: set[str] = set()

    def __enter__(self) -> NameServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._quit.set()
        self._thread.join()
        self._socket.close()

    def check(self) -> None:
        """Raises the error of the server, if any."""
        if self._failure is not None:
            raise self._failure

    def _serve(self) -> None:
        try:
            while not self._quit.is_set():
                try:
                    query, asker = self._socket.recvfrom(4096)
                except TimeoutError:
                    continue
                self.askers.add(asker[0])
                self._socket.sendto(self._answer(query), asker)
        except BaseException as failure:
            self._failure = failure

    def _answer(self, query: bytes) -> bytes:
        labels, at = [], 12
        while length := query[at]:
            labels.append(query[at + 1 : at + 1 + length].decode())
            at += 1 + length
        kind = struct.unpack_from("!H", query, at + 1)[0]
        name = ".".join(labels)
        self.asked.add(name)
        known = [ipaddress.ip_address(each) for each in self._table.get(name, ())]
        found = [each.packed for each in known if each.version == KINDS.get(kind)]
        code = 0 if known else 3
        head = struct.pack("!HHHHHH", int.from_bytes(query[:2], "big"), 0x8580 | code, 1, len(found), 0, 0)
        records = [struct.pack("!HHHIH", 0xC00C, kind, 1, 0, len(each)) + each for each in found]
        return head + query[12 : at + 5] + b"".join(records)
