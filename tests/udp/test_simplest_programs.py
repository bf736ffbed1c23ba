"""The simplest programs run. ``scripts/check types`` shows that ``mypy --strict`` accepts them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest

import udpring

from . import simplest_programs


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_programs_with_batches(family: int, make_socket: Callable[..., socket.socket]) -> None:
    inbox, outbox = make_socket(family), make_socket(family)
    host, port = outbox.getsockname()[:2]
    for program, expected in (
        (simplest_programs.hosts_of_packets, [host]),
        (simplest_programs.ports_of_column, [port, port]),
        (simplest_programs.answer, f"{host} {port}"),
    ):
        outbox.sendto(b"question", inbox.getsockname())
        assert program(inbox) == expected


def test_programs_with_transports() -> None:
    assert asyncio.run(simplest_programs.echo())[0] == "127.0.0.1"
    assert asyncio.run(simplest_programs.on_rings())


def test_sources_are_an_address_list(make_socket: Callable[..., socket.socket]) -> None:
    inbox, outbox = make_socket(), make_socket()
    for _ in range(3):
        outbox.sendto(b"x", inbox.getsockname())
    with udpring.RecvRing(inbox) as rx:
        sources = rx.recv_batch().addresses
    assert isinstance(sources, udpring.AddressList)
    assert type(sources[:2]) is type(sources) is udpring.SourceList
    assert sources == udpring.AddressList([outbox.getsockname()] * len(sources))
    assert repr(sources[:1]) == f"SourceList([{outbox.getsockname()!r}])"
