"""``udpring.Node``: a configuration brought to life inside an asyncio program.

The flow of ``start``:
1. The plane opens: interface, sockets on ListenPort with FwMark, worker (in the caller's network namespace).
2. Peers are added as the configuration has them; names of endpoints are looked up in threads.
3. Where the configuration has addresses, the interface is set up: addresses, MTU, routes (never PostUp and
   the like).
``reload`` compares a new configuration with the live state and changes only what differs, so that sessions
of peers that stay go on. ``stop`` takes everything back.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
from dataclasses import dataclass, replace
from types import TracebackType

from udpring.errors import ClosedError
from udpring.tunnel.blocking import run_blocking
from udpring.tunnel.config import Config, Network, PeerConfig
from udpring.tunnel.control import End
from udpring.tunnel.interface import Plan, needs_default_table, plan
from udpring.tunnel.interface_setup import Setup, gather
from udpring.tunnel.keys import to_base64
from udpring.tunnel.plane import Plane
from udpring.tunnel.plane_options import plane_tier, workers_asked
from udpring.tunnel.plane_values import Prefix, SocketAddress
from udpring.tunnel.resolver import Resolver
from udpring.tunnel.socket_file import SocketFile, socket_path
from udpring.tunnel.timestamp_file import timestamp_path
from udpring.tunnel.tunnel import Tunnel, TunnelStats
from udpring.tunnel.uapi import SOCKET_DIRECTORY
from udpring.tunnel.uapi_server import UapiServer

__all__ = ["Node", "NodePeer"]

DEFAULT_NAME = "udpring%d"
"""The kernel puts a number in place of %d."""
NAMES_WAIT = 3.0
"""Seconds that ``start`` waits for names of endpoints, whose routes give the MTU; the node starts without
them too."""

log = logging.getLogger("udpring.node")


@dataclass(frozen=True, slots=True)
class NodePeer:
    """A peer as it was when ``node.peers`` was read.

    ``public_key`` in base64; ``endpoint`` as (host, port), None while unknown; ``last_handshake`` in
    seconds since the epoch, None never; ``rx_bytes`` and ``tx_bytes`` as ``wg show`` counts them;
    ``persistent_keepalive`` in seconds, 0 off; ``cipher`` by its name; ``name`` from the configuration, for
    people.
    """

    public_key: str
    name: str = ""
    endpoint: tuple[str, int] | None = None
    last_handshake: float | None = None
    rx_bytes: int = 0
    tx_bytes: int = 0
    persistent_keepalive: int = 0
    allowed_ips: tuple[Network, ...] = ()
    cipher: str = "chacha20-poly1305"


class Node:
    """A tunnel node from a configuration: ``async with udpring.Node(config) as node: ...``.

    ``name``: of the interface, ``udpring0`` or the next free number unless given. ``tier``:
    ``uring-multishot``, ``uring-pool`` or ``mmsg`` instead of the best that works here (and instead of
    ``UDPRING_TIER``). ``workers``: threads for packets, 1 to 16; by the cores present unless given (or
    ``UDPRING_WORKERS``). ``set_up_interface``: whether addresses, MTU and routes are set; by default if the
    configuration has an Address. Without it the interface is down, and the node silent, until the program
    sets it up. ``uapi``: serve ``wg`` at /var/run/wireguard/NAME.sock too. ``key_later``: start without a
    PrivateKey too, which ``wg set`` is to give it. ``timestamps``: a directory in which the peers' last
    timestamps are kept across restarts, so that a captured initiation stays a replay (or
    ``UDPRING_TIMESTAMPS``; off unless given).

    A ``UDPRING_*`` variable with a value that it cannot have is a ConfigError, at once or in ``start``.

    One event loop, one thread. ``start`` raises ConfigError (no PrivateKey) and HostError (not root, no TUN
    device, the name or the port is taken, ``ip`` failed), each with what to do about it; nothing is left
    behind then.
    """

    def __init__(
        self,
        config: Config,
        *,
        name: str | None = None,
        tier: str | None = None,
        workers: int | None = None,
        set_up_interface: bool | None = None,
        uapi: bool = False,
        key_later: bool = False,
        timestamps: str | os.PathLike[str] | None = None,
    ) -> None:
        self._config = config
        self._asked_name = name or DEFAULT_NAME
        plane_tier(tier or "auto")
        self._tier = tier or "auto"
        workers_asked(workers)
        self._workers = workers
        self._set_up_interface = set_up_interface
        self._uapi = uapi
        self._key_later = key_later
        self._timestamps = timestamps
        self._tunnel: Tunnel | None = None
        self._resolver: Resolver | None = None
        self._server: UapiServer | None = None
        self._setup: Setup | None = None
        self._changing = asyncio.Lock()
        self._names: dict[bytes, str] = {}
        self._end: asyncio.Future[End] | None = None

    async def __aenter__(self) -> Node:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # ---- life ----

    async def start(self) -> None:
        """Brings the node up; returns when the interface exists and is set up. Does nothing if it is up."""
        async with self._changing:
            if self._tunnel is not None:
                return
            key = self._key_of(self._config)
            try:
                await self._start(key)
            except BaseException:
                await self._take_down()
                raise

    def _key_of(self, config: Config) -> bytes | None:
        return config.interface.private_key if self._key_later else config.require_private_key()

    async def _start(self, key: bytes | None) -> None:
        loop = asyncio.get_running_loop()
        settings = self._config.interface
        plane = Plane(
            self._asked_name,
            tier=self._tier,
            workers=self._workers,
            listen_port=settings.listen_port,
            fwmark=settings.fwmark,
        )
        self._tunnel = tunnel = Tunnel(plane, loop=loop, fwmark=settings.fwmark)
        tunnel.keep_timestamps(timestamp_path(self._timestamps, tunnel.name))
        self._resolver = Resolver()
        self._end = loop.create_future()
        if key is not None:
            tunnel.set_private_key(key)
        tunnel.start()
        tunnel.gone.add_done_callback(self._ended)
        if self._uapi:
            path = socket_path(SOCKET_DIRECTORY, tunnel.name)
            self._server = UapiServer(tunnel, await SocketFile.open(path))
            self._server.gone.add_done_callback(self._ended)
            self._server.start()
        self._apply_peers(self._config, None)
        await self._apply_interface(self._config)
        log.debug(
            "%s is up: tier %s (%s), AEAD %s, UDP port %d",
            tunnel.name,
            self.tier,
            plane.tier_reason,
            self.aead,
            tunnel.listen_port,
        )

    def _ended(self, gone: asyncio.Future[End]) -> None:
        if gone.cancelled() or self._end is None or self._end.done():
            return
        name = self._tunnel.name if self._tunnel else self._asked_name
        log.warning("%s: %s", name, gone.result().reason)
        self._end.set_result(gone.result())

    async def stop(self) -> None:
        """Takes the node down: sessions, interface, routes, threads. Does nothing if it is down."""
        async with self._changing:
            await self._take_down()

    async def _take_down(self) -> None:
        resolver, self._resolver = self._resolver, None
        server, self._server = self._server, None
        setup, self._setup = self._setup, None
        tunnel, self._tunnel = self._tunnel, None
        try:
            if resolver is not None:
                await resolver.close()
            if server is not None:
                await server.close()
            if setup is not None:
                await run_blocking(setup.undo, name="udpring-undo")
        finally:
            if tunnel is not None:
                tunnel.close()
            if self._end is not None and not self._end.done():
                self._end.set_result(End("the node was stopped"))

    async def wait(self) -> End:
        """Returns, with the reason, when the node's end has come: the interface or its socket file was
        removed, the worker failed, or ``stop`` was called. ``stop`` is still to be called, except after
        itself."""
        if self._end is None:
            raise ClosedError("the node was not started")
        return await asyncio.shield(self._end)

    async def reload(self, config: Config) -> None:
        """Makes the live node as ``config`` says. Sessions of peers that stay are kept, also when the
        listen port moves.

        Raises ConfigError and HostError; the port, which may be taken, is tried before anything is changed.
        """
        key = self._key_of(config)
        async with self._changing:
            tunnel = self._live()
            # 0 means any: the port that it has will do.
            if config.interface.listen_port:
                tunnel.set_listen_port(config.interface.listen_port)
            if key is not None:
                tunnel.set_private_key(key)
            before, self._config = self._config, config
            if config.interface.fwmark != before.interface.fwmark:
                tunnel.set_fwmark(config.interface.fwmark)
            self._apply_peers(config, before)
            await self._apply_interface(config)

    # ---- what it is ----

    @property
    def name(self) -> str:
        """The interface's name."""
        return self._live().name

    @property
    def tier(self) -> str:
        """The tier in use; ``tier_reason`` says why none above it."""
        return self._live().plane.stats().tier

    @property
    def tier_reason(self) -> str:
        """Why each tier above the one in use was not taken; empty for the best."""
        return self._live().plane.tier_reason

    @property
    def aead(self) -> str:
        """The AEAD library in use; of both ciphers, in words, where peers have ``Cipher = aes-256-gcm``."""
        return self._live().aead

    @property
    def listen_port(self) -> int:
        """The UDP port, chosen by the kernel where the configuration has none."""
        return self._live().listen_port

    @property
    def public_key(self) -> str:
        """The node's own public key, in base64."""
        key = self._live().device.public_key
        return "" if key is None else to_base64(key)

    @property
    def config(self) -> Config:
        """The configuration it was started or last reloaded with."""
        return self._config

    @property
    def peers(self) -> tuple[NodePeer, ...]:
        """All peers as they are now, in the order in which they were added."""
        tunnel = self._live()
        states = tunnel.states()
        found = []
        for public_key, peer in tunnel.device.peers.items():
            state = states[peer.id]
            endpoint = state.endpoint
            found.append(
                NodePeer(
                    public_key=to_base64(public_key),
                    name=self._names.get(public_key, ""),
                    endpoint=(endpoint.host, endpoint.port) if endpoint else None,
                    last_handshake=peer.last_handshake_wall / 1e9 if peer.last_handshake_wall else None,
                    rx_bytes=state.rx_bytes,
                    tx_bytes=state.tx_bytes,
                    persistent_keepalive=peer.persistent_keepalive,
                    cipher=str(peer.cipher),
                    allowed_ips=tuple(
                        ipaddress.ip_network((network, cidr)) for network, cidr in tunnel.allowed_ips(peer.id)
                    ),
                )
            )
        return tuple(found)

    @property
    def stats(self) -> TunnelStats:
        """All counters: ``stats.plane`` of packets, ``stats.control`` of handshakes and timers."""
        return self._live().stats()

    def _live(self) -> Tunnel:
        if self._tunnel is None:
            raise ClosedError("the node is not up: await node.start(), or async with")
        return self._tunnel

    # ---- making it so ----

    def _apply_peers(self, config: Config, before: Config | None) -> None:
        """Adds, removes and changes peers until the tunnel has those of ``config``. Compared with what is
        live, as ``wg`` may have changed it; an endpoint only where the configuration's changed, as peers
        roam."""
        tunnel = self._live()
        wanted = {peer.public_key: peer for peer in config.peers if not tunnel.is_own(peer.public_key)}
        if len(wanted) < len(config.peers):
            log.warning("%s: a peer has the node's own public key: left out", config.file)
        endpoints = {peer.public_key: peer.endpoint for peer in before.peers} if before else {}
        for public_key, live in list(tunnel.device.peers.items()):
            if public_key not in wanted:
                self._resolver_of().cancel(public_key)
                tunnel.remove_peer(live.id)
        self._names = {public_key: peer.name for public_key, peer in wanted.items()}
        ids = {}
        new = set()
        for public_key, peer in wanted.items():
            found = tunnel.find(public_key)
            if found is None:
                new.add(public_key)
                found = tunnel.add_peer(public_key)
            ids[public_key] = found
            if tunnel.device.by_id[found].preshared_key != peer.preshared_key:
                tunnel.set_preshared_key(found, peer.preshared_key)
            if tunnel.device.by_id[found].cipher is not peer.cipher:
                tunnel.set_cipher(found, peer.cipher)
        self._apply_allowed_ips(wanted, ids)
        for public_key, peer in wanted.items():
            if public_key in new or endpoints.get(public_key) != peer.endpoint:
                self._apply_endpoint(peer)
        for public_key, peer in wanted.items():
            if tunnel.device.by_id[ids[public_key]].persistent_keepalive != peer.persistent_keepalive:
                tunnel.set_keepalive(ids[public_key], peer.persistent_keepalive)
            tunnel.start_peer(ids[public_key])

    def _apply_allowed_ips(self, wanted: dict[bytes, PeerConfig], ids: dict[bytes, int]) -> None:
        tunnel = self._live()
        removed: list[Prefix] = []
        added: list[Prefix] = []
        for public_key, peer in wanted.items():
            number = ids[public_key]
            has = set(tunnel.allowed_ips(number))
            wants = {(each.network_address.packed, each.prefixlen) for each in peer.allowed_ips}
            removed += [Prefix(network, cidr, number, remove=True) for network, cidr in has - wants]
            added += [Prefix(network, cidr, number) for network, cidr in wants - has]
        tunnel.apply_allowed_ips(removed + added)

    def _apply_endpoint(self, peer: PeerConfig) -> None:
        resolver = self._resolver_of()
        if peer.endpoint is None:
            resolver.cancel(peer.public_key)
            return

        def found(address: SocketAddress) -> None:
            tunnel = self._live()
            number = tunnel.find(peer.public_key)
            if number is not None:
                tunnel.set_endpoint(number, address)
                tunnel.start_peer(number)

        resolver.resolve(peer.public_key, peer.endpoint, found)

    def _resolver_of(self) -> Resolver:
        if self._resolver is None:
            raise ClosedError("the node is not up")
        return self._resolver

    async def _apply_interface(self, config: Config) -> None:
        wanted = self._set_up_interface
        if wanted is None:
            wanted = bool(config.interface.addresses)
        if not wanted:
            if self._setup is not None:
                setup, self._setup = self._setup, None
                await run_blocking(setup.undo, name="udpring-undo")
            return
        tunnel = self._live()
        await self._resolver_of().settled(NAMES_WAIT)
        endpoints = [
            ipaddress.ip_address(state.endpoint.ip)
            for state in tunnel.states().values()
            if state.endpoint is not None
        ]
        name = tunnel.name
        if self._setup is not None:
            config = _keep_unset(config, self._setup.plan)
        facts = await run_blocking(lambda: gather(config, name, endpoints), name="udpring-gather")
        made = plan(config, name, facts)
        for warning in made.warnings:
            log.warning("%s: %s", name, warning)
        tunnel.set_fwmark(made.fwmark)
        if self._setup is None:
            self._setup = Setup(made)
            await run_blocking(self._setup.apply, name="udpring-setup")
        else:
            setup = self._setup
            await run_blocking(lambda: setup.change(made), name="udpring-setup")


def _keep_unset(config: Config, live: Plan) -> Config:
    """What the configuration leaves to us stays as it was chosen: asked again, the routes would answer
    through the tunnel itself."""
    settings = config.interface
    return replace(
        config,
        interface=replace(
            settings,
            mtu=live.mtu if settings.mtu is None else settings.mtu,
            fwmark=settings.fwmark or (live.fwmark if needs_default_table(config) else 0),
        ),
    )
