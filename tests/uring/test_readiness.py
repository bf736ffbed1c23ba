"""The ring on readiness alone. Reactors, files, streams and servers run on it in their own tests."""

from __future__ import annotations

import contextlib
import os
import socket

from udpring.uring.readiness import SHOTS_AT_ONCE, ReadinessRing

from .reactors import PATIENCE


def test_waiting_clients_are_accepted_in_parts() -> None:
    """A flood of clients must not keep the event loop from its other work."""
    count = 5 * SHOTS_AT_ONCE + 1
    ring = ReadinessRing()
    with contextlib.ExitStack() as closing, socket.create_server(("127.0.0.1", 0), backlog=count) as listener:
        closing.callback(ring.close)
        for _ in range(count):
            closing.enter_context(socket.create_connection(listener.getsockname(), PATIENCE))
        ticket = ring.accept_multishot(listener)
        accepted = 0
        while accepted < count:
            assert ring.wait(1, PATIENCE)
            found = ring.completions()
            assert len(found) <= 2 * SHOTS_AT_ONCE  # at the submit, and when the socket is ready
            assert all(each.more and each.ticket == ticket for each in found)
            for each in found:
                os.close(each.result)
            accepted += len(found)
        assert not ring.wait(1, 0)
