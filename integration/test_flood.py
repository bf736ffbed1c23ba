"""A flood of handshake initiations with a valid mac1, which anybody can send who knows the public key.

The node demands cookies. Its honest peer gets one, uses it, and is served during the flood.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from lab import GO, SUBJECT, Node, Program, Rig, Space, until
from lab.traffic import ping
from lab.wire import COOKIE, INITIATION, Capture, Message

PAIRS = [
    pytest.param((GO, SUBJECT), id="subject-is-flooded"),
    pytest.param((SUBJECT, GO), id="subject-is-asked-for-a-cookie"),
    pytest.param((SUBJECT, SUBJECT), id="subject-both"),
]
Programs = tuple[Program, Program]
STRANGER = "10.99.0.66"
NO_MAC2 = bytes(16)


def _initiation(target: Node) -> bytes:
    """Random bytes with the length and type of an initiation and mac1 for the target's key (whitepaper
    5.4.4)."""
    body = struct.pack("<I", INITIATION) + secrets.token_bytes(112)
    key = hashlib.blake2s(b"mac1----" + base64.b64decode(target.public_key)).digest()
    return body + hashlib.blake2s(body, key=key, digest_size=16).digest() + NO_MAC2


@contextmanager
def _flood(source: Space, target: Node) -> Iterator[list[int]]:
    """Initiations from a stranger's address, as fast as one thread can. Yields [the number sent]."""
    source.ip("addr", "add", f"{STRANGER}/24", "dev", "under")
    messages = [_initiation(target) for _ in range(256)]
    sent, over = [0], threading.Event()
    where = (target.space.ipv4, target.port)

    def run() -> None:
        while not over.is_set():
            for message in messages:
                sock.sendto(message, where)
            sent[0] += len(messages)

    with source.socket(STRANGER, socket.SOCK_DGRAM) as sock:
        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield sent
        finally:
            over.set()
            thread.join()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("programs", PAIRS)
def test_the_honest_peer_is_served(rig: Rig, tmp_path: Path, programs: Programs) -> None:
    honest_peer_is_served(rig, tmp_path, programs)


def honest_peer_is_served(rig: Rig, tmp_path: Path, programs: Programs) -> None:
    """The second of the programs is flooded and demands a cookie from the first."""
    tunnel = rig.tunnel(programs)
    a, b = tunnel.a, tunnel.b
    # Captures only the honest peer's messages. The flood would fill the disk.
    with Capture(b.space, tmp_path / "wire.pcap", only=f"udp and host {a.space.ipv4}") as capture:
        with _flood(a.space, b) as sent:
            until(lambda: sent[0] > 20_000, "the flood is on")
            for _ in range(4):
                ping(a.space, b.inner4, deadline=60)
                if _asked(capture.messages()):
                    break
                # the load had not been noticed yet, so another handshake follows
                a.kill()
                a.restart()
            messages = capture.messages()
        assert _asked(messages), "no cookie was asked for: the flood was no load, the test proves nothing"
        cookie = next(index for index, message in enumerate(messages) if message.type == COOKIE)
        assert len(messages[cookie].payload) == 64
        shown = [m for m in messages[cookie:] if m.type == INITIATION and m.payload[-16:] != NO_MAC2]
        assert shown, "the cookie was never shown"
    # After the flood, everything works as before.
    tunnel.ping()
    tunnel.ping(back=True)
    tunnel.tcp_both_ways(1 << 18)
    assert "Traceback" not in a.log_text() + b.log_text()


def _asked(messages: list[Message]) -> bool:
    return any(message.type == COOKIE for message in messages)
