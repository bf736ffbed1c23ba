"""What a node asks of its host beyond its own sockets: names, other tunnels, the removal of its socket file.

By default the node does it in a thread. A confined node may not, so ``of_broker`` asks a broker process
(``broker``), whose services are in ``broker_services``.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from udpring.records import record
from udpring.tunnel.broker import Broker
from udpring.tunnel.crossed_tunnels import TunnelView, ViewOf, view_of
from udpring.tunnel.plane_values import SocketAddress
from udpring.tunnel.socket_path import interface_of

if TYPE_CHECKING:
    from udpring.tunnel.config import Endpoint
    from udpring.tunnel.resolver import Addresses

__all__ = ["Outside", "of_broker"]


def _look_up(endpoint: Endpoint) -> Addresses:
    from udpring.tunnel.resolver import look_up_all  # noqa: PLC0415 - wg sets no names

    return look_up_all(endpoint)


@record
class Outside:
    """``addresses``: of an endpoint's host. ``tunnel``: the state of another tunnel. ``made`` and ``remove``:
    a socket file of the node was made, and is to be removed. All may block."""

    addresses: Callable[[Endpoint], Addresses] = _look_up
    tunnel: ViewOf = view_of
    made: Callable[[str], None] = lambda path: None
    remove: Callable[[str], None] = os.unlink


def of_broker(broker: Broker) -> Outside:
    """Asks the broker for everything."""

    def addresses(endpoint: Endpoint) -> Addresses:
        found = broker.call("addresses", host=endpoint.host, port=endpoint.port)
        return tuple(SocketAddress(bytes.fromhex(ip), port, scope) for ip, port, scope in found)

    def tunnel(interface: str) -> TunnelView | None:
        found = broker.call("tunnel", interface=interface)
        if found is None:
            return None
        return TunnelView(
            found["fwmark"],
            {ipaddress.ip_network(network): b"%d" % number for network, number in found["owners"]},
            {b"%d" % number: ipaddress.ip_address(address) for number, address in found["endpoints"]},
        )

    return Outside(
        addresses,
        tunnel,
        lambda path: broker.call("made", interface=interface_of(path)),
        lambda path: broker.call("remove", interface=interface_of(path)),
    )
