#!/usr/bin/env python3
"""Relays between clients and one server, as a NAT does: relay.py SERVER-HOST SERVER-PORT [--port N] [--pool
NET].

Two sockets serve any number of clients. Each client gets an address of the pool, from which its datagrams go
to the server (``source=``). The server's answer is sent to that address (``batch.locals``), so the relay
knows the client. The pool is a network whose addresses all belong to this machine. On loopback any part of
127.0.0.0/8 will do."""

import argparse
import contextlib
import ipaddress
import itertools
import select
import socket
import sys
from collections import OrderedDict

import udpring

Address = udpring.Address
CLIENTS_MAX = 4096


class Clients:
    """The assignment of pool addresses to clients. When all are in use, the longest silent client loses its
    address."""

    def __init__(self, pool: ipaddress.IPv4Network) -> None:
        self._free = [str(host) for host in itertools.islice(pool.hosts(), CLIENTS_MAX)][::-1]
        self._hosts: OrderedDict[Address, str] = OrderedDict()
        self._clients: dict[str, Address] = {}

    def host(self, client: Address) -> str:
        """The client's address, assigned now if it has none."""
        host = self._hosts.get(client)
        if host is None:
            host = self._free.pop() if self._free else self._hosts.popitem(last=False)[1]
            self._hosts[client] = host
            self._clients[host] = client
        self._hosts.move_to_end(client)
        return host

    def client(self, host: str | None) -> Address | None:
        """The client of the address. None: there is none."""
        return self._clients.get(host) if host is not None else None

    def __len__(self) -> int:
        return len(self._hosts)


def to_server(batch: udpring.Batch, tx: udpring.SendRing, clients: Clients, server: Address) -> None:
    """Forwards datagrams of clients in place: one call for each run of datagrams of one client."""
    begin = 0
    for client, run in itertools.groupby(batch.addresses):
        end = begin + len(list(run))
        if client is not None:
            tx.send_batch(batch[begin:end], server, source=clients.host(client))
        begin = end


def to_clients(batch: udpring.Batch, tx: udpring.SendRing, clients: Clients, server: Address) -> None:
    """Forwards the server's answers to their clients, in one call. Drops datagrams of others."""
    owners = [
        clients.client(host) if sender == server else None
        for host, sender in zip(batch.locals, batch.addresses, strict=True)
    ]
    ready = [(view, owner) for view, owner in zip(batch.views(), owners, strict=True) if owner is not None]
    tx.send_batch([view for view, _ in ready], [owner for _, owner in ready])


def relay(front: socket.socket, back: socket.socket, server: Address, clients: Clients) -> None:
    """Relays until Ctrl-C: waits for either ring, then handles its datagrams."""
    with (
        udpring.RecvRing(front) as from_clients,
        udpring.SendRing(front) as answering,
        udpring.RecvRing(back) as from_server,
        udpring.SendRing(back) as asking,
    ):
        print(f"relaying on port {front.getsockname()[1]}, tier {from_clients.tier}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                ready = select.select([from_clients, from_server], [], [])[0]
                if from_clients in ready:
                    with from_clients.recv_batch(timeout=0) as batch:
                        to_server(batch, asking, clients, server)
                if from_server in ready:
                    with from_server.recv_batch(timeout=0) as batch:
                        to_clients(batch, answering, clients, server)
        there, returned = asking.stats["packets"], answering.stats["packets"]
        print(f"{there} to the server, {returned} back, {len(clients)} clients")


def main() -> None:
    """Opens the two sockets: one for clients, one for the server."""
    parser = argparse.ArgumentParser(description="Relays between clients and one server, as a NAT does.")
    parser.add_argument("server", type=ipaddress.IPv4Address)
    parser.add_argument("server_port", type=int)
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1 (default: any that is free)")
    parser.add_argument("--pool", type=ipaddress.IPv4Network, default=ipaddress.IPv4Network("127.77.0.0/20"))
    args = parser.parse_args()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as front,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as back,
    ):
        for sock, host, port in ((front, "127.0.0.1", args.port), (back, "0.0.0.0", 0)):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            sock.bind((host, port))
        relay(front, back, (str(args.server), args.server_port), Clients(args.pool))


if __name__ == "__main__":
    try:
        main()
    except (udpring.UdpringError, OSError) as error:
        sys.exit(str(error))
