"""TLS over a ring: the program makes the records (``ssl.MemoryBIO``), and linked sends keep their order."""

from __future__ import annotations

import os
import socket
import ssl
import threading

from udpring.uring import Completion, Flag, Ring

# No certificates: anonymous Diffie-Hellman. Only for tests.
CIPHERS = "AECDH-AES128-SHA:@SECLEVEL=0"
RECORD = 16384


def context(kind: ssl._SSLMethod) -> ssl.SSLContext:
    made = ssl.SSLContext(kind)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.maximum_version = ssl.TLSVersion.TLSv1_2
    made.set_ciphers(CIPHERS)
    return made


class Session:
    """A client's TLS session on a connected socket."""

    def __init__(self, ring: Ring, sock: socket.socket) -> None:
        self.ring, self.sock = ring, sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(self.incoming, self.outgoing)

    def one(self) -> Completion:
        (done,) = self.ring.reap(1, 30)
        done.check()
        return done

    def shake_hands(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.flush()
                self.ring.recv(self.sock, 65536)
                self.incoming.write(self.one().data)
                continue
            self.flush()
            return

    def flush(self) -> None:
        if self.outgoing.pending:
            self.ring.send(self.sock, self.outgoing.read(), message_flags=socket.MSG_WAITALL)
            self.one()

    def send_linked(self, payload: bytes) -> list[int]:
        """One send for each record, each linked to the next. Returns their results."""
        records = []
        for at in range(0, len(payload), RECORD):
            self.tls.write(payload[at : at + RECORD])
            records.append(self.outgoing.read())
        self.ring.reserve(len(records))
        tickets = [
            self.ring.send(
                self.sock,
                record,
                message_flags=socket.MSG_WAITALL,
                flags=Flag.NONE if record is records[-1] else Flag.LINK,
            )
            for record in records
        ]
        done: dict[int, int] = {}
        while len(done) < len(tickets):
            done |= {each.ticket: each.check() for each in self.ring.reap(1, 30)}
        assert [done[ticket] for ticket in tickets] == [len(record) for record in records]
        return [done[ticket] for ticket in tickets]


def test_linked_sends_carry_tls_records_in_order() -> None:
    """More than the socket's buffer holds, so sends wait, and the links keep the later ones behind them."""
    payload, got = os.urandom(40 * RECORD), bytearray()
    with socket.create_server(("127.0.0.1", 0)) as server, Ring(64) as ring:

        def receive() -> None:
            plain, _ = server.accept()
            with context(ssl.PROTOCOL_TLS_SERVER).wrap_socket(plain, server_side=True) as peer:
                peer.sendall(b"hello")
                while len(got) < len(payload):
                    got.extend(peer.recv(65536))

        peer = threading.Thread(target=receive, daemon=True)
        peer.start()
        with socket.create_connection(server.getsockname()) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * RECORD)
            session = Session(ring, sock)
            session.shake_hands()
            while not session.incoming.pending:
                ring.recv(sock, 65536)
                session.incoming.write(session.one().data)
            assert session.tls.read(100) == b"hello"
            assert len(session.send_linked(payload)) == 40
            peer.join(30)
    assert bytes(got) == payload
