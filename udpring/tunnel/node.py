"""``udpring.Node``: runs the tunnel that a configuration describes, inside an asyncio program.

``start`` does this:
1. Its attachment opens the plane: the interface, sockets on ListenPort with FwMark, the workers. By default
   all are in the caller's network namespace.
2. It adds the peers of the configuration. Threads look up the names of endpoints.
3. Where the configuration has addresses, it sets up the interface: addresses, MTU, routes. It never runs
   PostUp and the other hooks.

``reload`` compares a new configuration with the live state and changes only the differences, so the sessions
of other peers continue. ``stop`` undoes everything.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
from dataclasses import replace
from types import TracebackType

from udpring.errors import ClosedError
from udpring.tunnel.attachment import Attached, Attachment, PlaneSettings, Tun
from udpring.tunnel.changed_config import changed_interface
from udpring.tunnel.config import Config, PeerConfig
from udpring.tunnel.control import End
from udpring.tunnel.directory import Directory
from udpring.tunnel.directory_limits import ANSWER_SECONDS_MAX
from udpring.tunnel.directory_peers import DirectoryPeers
from udpring.tunnel.endpoint_following import EndpointFollowing
from udpring.tunnel.inside import Inside
from udpring.tunnel.keys import to_base64
from udpring.tunnel.namespaces import Namespaces
from udpring.tunnel.node_drain import busy_peers
from udpring.tunnel.node_events import EVENTS_LIMIT, EventReader, InterfaceGone, NodeEvents, PeerRefused
from udpring.tunnel.node_peers import NodePeer, NodePeers, PrefixChange, key_bytes
from udpring.tunnel.outside import Outside
from udpring.tunnel.packets import AttachedPackets, PacketsOfNode
from udpring.tunnel.peers_on_demand import PeersOnDemand
from udpring.tunnel.plane_options import plane_tier, workers_asked
from udpring.tunnel.resolver import Resolver
from udpring.tunnel.rootless import AttachedRootless
from udpring.tunnel.socket_file import SocketFile
from udpring.tunnel.socket_path import SOCKET_DIRECTORY, socket_name
from udpring.tunnel.timestamp_file import timestamp_path
from udpring.tunnel.tunnel import Tunnel, TunnelStats
from udpring.tunnel.uapi_server import Reporters, UapiServer
from udpring.tunnel.workers_of_node import WorkersOfNode
from udpring.wireguard.device import Device

__all__ = ["Node", "NodePeer"]

NAMES_WAIT = 3.0
"""Seconds that ``start`` waits for the names of endpoints, because their routes decide the MTU."""

log = logging.getLogger("udpring.node")


class Node(Inside, PacketsOfNode, WorkersOfNode):
    """A tunnel node from a configuration: ``async with udpring.Node(config) as node: ...``.

    name: of the interface. Default: ``udpring0`` or the next free number.
    tier: ``uring-multishot``, ``uring-pool`` or ``mmsg``. Default: ``UDPRING_TIER``, or the best that works
        here.
    workers: threads that move packets, 1 to 16. Default: ``UDPRING_WORKERS``, or by the number of CPUs.
    set_up_interface: whether to set addresses, MTU and routes. Default: yes if the configuration has an
        Address. Otherwise the interface stays down, and the node silent, until the program sets it up.
    uapi: also serve ``wg`` at /var/run/wireguard/NAME.sock.
    reporters: further requests that are answered there, such as ``reload`` (``uapi_server``).
    key_later: also start without a PrivateKey. ``wg set`` gives it one later.
    timestamps: a directory that keeps the peers' last timestamps across restarts, so that a captured
        initiation stays a replay. Default: ``UDPRING_TIMESTAMPS``, or off.
    attachment: where packets come from and go to. Default: ``Tun()``, a TUN device in the caller's network
        namespace. ``Packets()``: the program itself (``packets``).
    peers: a directory that is asked for peers when they are needed (``udpring.tunnel.directory``), beside
        those of the configuration. It adds no routes: the addresses of its peers must be routed to the
        interface, by the Address of the configuration for example.
    idle_timeout: seconds after which a peer of the directory leaves, if it neither sent nor got a packet.
    answer_timeout: seconds that the directory has for an answer, up to 30.
    outside: how a confined node looks up names and other tunnels (``outside``). Default: by itself.

    A node belongs to one event loop in one thread. A wrong ``UDPRING_*`` variable is a ConfigError. ``start``
    raises ConfigError (no PrivateKey) and HostError (not root, no TUN device, the name or the port is taken,
    ``ip`` failed). Each says what to do about it, and leaves nothing behind.
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
        reporters: Reporters | None = None,
        key_later: bool = False,
        timestamps: str | os.PathLike[str] | None = None,
        attachment: Attachment | None = None,
        peers: Directory | None = None,
        idle_timeout: float = 300.0,
        answer_timeout: float = 5.0,
        outside: Outside | None = None,
    ) -> None:
        if not 0 < answer_timeout <= ANSWER_SECONDS_MAX:
            raise ValueError(f"answer_timeout {answer_timeout}: more than 0, up to {ANSWER_SECONDS_MAX:g} s")
        if not idle_timeout > 0:
            raise ValueError(f"idle_timeout {idle_timeout}: more than 0 s")
        self._outside = outside or Outside()
        self._directory = peers
        self._idle_timeout = idle_timeout
        self._answer_timeout = answer_timeout
        self._on_demand: PeersOnDemand | None = None
        self._config = config
        self._asked_name = name
        self._attachment: Attachment = attachment or Tun()
        plane_tier(tier or "auto")
        self._tier = tier or "auto"
        workers_asked(workers)
        self._workers = workers
        self._set_up_interface = set_up_interface
        self._uapi = uapi
        self._reporters = reporters
        self._key_later = key_later
        self._timestamps = timestamps
        self._tunnel: Tunnel | None = None
        self._following: EndpointFollowing | None = None
        self._server: UapiServer | None = None
        self._attached: Attached | None = None
        self._peers: NodePeers | None = None
        self._changing = asyncio.Lock()
        self._applied: tuple[int, int, int] | None = None
        """Of the tunnel when ``_config`` was true: changes, port, mark."""
        self._end: asyncio.Future[End] | None = None
        self._events = NodeEvents()

    async def __aenter__(self) -> Node:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # ---- life ----

    async def start(self) -> None:
        """Brings the node up. Returns when the interface exists and is set up. Does nothing if it is up."""
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
        self._attached = attached = await self._attachment.open(
            PlaneSettings(
                name=self._asked_name,
                tier=self._tier,
                workers=self._workers,
                listen_port=settings.listen_port,
                fwmark=settings.fwmark,
                asks=self._directory is not None,
            )
        )
        plane = attached.plane
        self._tunnel = tunnel = Tunnel(
            plane, loop=loop, fwmark=settings.fwmark, link=attached.link, events=self._events,
            view=self._outside.tunnel,
        )  # fmt: skip
        tunnel.keep_timestamps(timestamp_path(self._timestamps, tunnel.name))
        self._following = following = EndpointFollowing(tunnel, Resolver(self._outside.addresses), loop=loop)
        directory_peers = None
        if self._directory is not None:
            directory_peers = DirectoryPeers(tunnel, following, loop=loop, idle_timeout=self._idle_timeout)
            self._on_demand = PeersOnDemand(
                self._directory,
                tunnel,
                directory_peers,
                loop=loop,
                answer_timeout=self._answer_timeout,
                refused=self._peer_refused,
            )
        self._peers = peers = NodePeers(tunnel, following, directory_peers)
        self._end = loop.create_future()
        if key is not None:
            tunnel.set_private_key(key)
        tunnel.set_offload(self._config.interface.offload)
        tunnel.start()
        tunnel.gone.add_done_callback(self._ended)
        if attached.gone is not None:
            attached.gone.add_done_callback(self._ended)
        if self._uapi:
            path = socket_name(SOCKET_DIRECTORY, tunnel.name)
            self._server = UapiServer(tunnel, await self._socket_file(path), reporters=self._reporters)
            self._server.gone.add_done_callback(self._ended)
            self._server.start()
        peers.apply(self._config)
        if self._on_demand is not None:
            self._on_demand.start()
        await self._apply_interface(self._config)
        self._applied = tunnel.settings
        log.debug(
            "%s is up: tier %s%s, AEAD %s, UDP port %d",
            tunnel.name,
            self.tier,
            f" ({plane.tier_reason})" if plane.tier_reason else "",
            self.aead,
            tunnel.listen_port,
        )

    async def _socket_file(self, path: str) -> SocketFile:
        file = await SocketFile.open(path, remove=self._outside.remove)
        self._outside.made(path)
        return file

    def _ended(self, gone: asyncio.Future[End]) -> None:
        if gone.cancelled() or self._end is None or self._end.done():
            return
        if isinstance(self._attached, AttachedPackets):
            self._attached.close_port()  # no packet comes any more
        name = self._tunnel.name if self._tunnel else self._asked_name or "the node"
        end = gone.result()
        log.warning("%s: %s", name, end.reason)
        self._end.set_result(end)
        self._events.end(InterfaceGone(end.reason, end.failed))

    def _peer_refused(self, key: bytes | None, reason: str) -> None:
        """A directory's answer could not be used."""
        event = PeerRefused("" if key is None else to_base64(key), reason)
        self._events.refuse(event, int(asyncio.get_running_loop().time()))

    async def stop(self) -> None:
        """Takes the node down: sessions, interface, routes, threads. Does nothing if it is down."""
        async with self._changing:
            await self._take_down()

    async def _take_down(self) -> None:
        self._applied = None
        following, self._following = self._following, None
        server, self._server = self._server, None
        attached, self._attached = self._attached, None
        tunnel, self._tunnel = self._tunnel, None
        on_demand, self._on_demand = self._on_demand, None
        self._peers = None
        try:
            if on_demand is not None:
                await on_demand.close()
            if following is not None:
                await following.close()
            if server is not None:
                await server.close()
            if attached is not None:
                await attached.undo()
        finally:
            if tunnel is not None:
                tunnel.close()
            if attached is not None:
                attached.plane.close()  # again, or for the first time where the tunnel could not be made
                await attached.close()
            if self._end is not None and not self._end.done():
                self._end.set_result(End("the node was stopped"))
            if tunnel is not None:
                self._events.end()

    async def wait(self) -> End:
        """Waits until the node ends, and returns the reason: the interface or its socket file was removed, a
        worker failed, or ``stop`` was called. Call ``stop`` afterwards."""
        if self._end is None:
            raise ClosedError("the node was not started")
        return await asyncio.shield(self._end)

    async def reload(self, config: Config) -> None:
        """Changes the live node to ``config``. Peers that stay keep their sessions, also when the listen port
        changes.

        Raises ConfigError and HostError. A taken port fails before anything is changed.
        """
        key = self._key_of(config)
        async with self._changing:
            tunnel = self._live()
            # 0 means any port: keep the present one.
            if config.interface.listen_port:
                tunnel.set_listen_port(config.interface.listen_port)
            if key is not None:
                tunnel.set_private_key(key)
            before, self._config = self._config, config
            if config.interface.fwmark != before.interface.fwmark:
                tunnel.set_fwmark(config.interface.fwmark)
            tunnel.set_offload(config.interface.offload)
            self._live_peers().apply(config)
            await self._apply_interface(config)
            self._applied = tunnel.settings

    # ---- single peers ----

    async def add_peer(self, peer: PeerConfig) -> None:
        """Adds a peer to the live node. The cost does not depend on the number of peers.

        Allowed IPs that another peer has move to this one. If the node set up the interface, it adds their
        routes. The MTU stays. Returns when the peer is in place. An endpoint that is a name is looked up in
        the background, until it is found.

        Raises ConfigError (there is a peer with this key, or the key is the node's own), RingError (no room
        for more peers or prefixes), HostError (a route was refused). The peer is not there then.
        """
        async with self._changing:
            change = self._live_peers().add(peer)
            try:
                await self._follow(change)
            except OSError:
                self._live_peers().remove(peer.public_key)
                raise

    async def update_peer(self, peer: PeerConfig) -> None:
        """Changes the peer with this public key to ``peer``, as ``reload`` does. Its session continues,
        unless the cipher changes. The endpoint is set only if it differs from the configured one, because
        peers roam. Routes follow as in ``add_peer``.

        Raises ConfigError (there is no such peer), HostError and RingError (refused; some settings may have
        changed).
        """
        async with self._changing:
            await self._follow(self._live_peers().update(peer))

    async def remove_peer(self, public_key: bytes | str) -> None:
        """Removes a peer, given by its key as bytes or in base64. Its keys are zeroised, and the routes of
        its allowed IPs go. Raises ConfigError where there is no such peer."""
        async with self._changing:
            await self._follow(self._live_peers().remove(key_bytes(public_key)))

    async def _follow(self, change: PrefixChange) -> None:
        """The host's routes follow the tunnel's prefixes."""
        settings = self._config.interface
        if not await self._attached_of().set_routes(settings, change.added, change.removed):
            await self._apply_interface(self.config)

    # ---- events ----

    def events(self, *, limit: int = EVENTS_LIMIT) -> EventReader:
        """The events of the node from now on: ``async for event in node.events()``. May be called before
        ``start``, so that no event is missed, and several times: each reader gets every event.

        ``limit``: events that wait for the reader. Further ones are dropped and counted, and ``EventsLost``
        comes in their place. The reader ends when the node ends or is stopped. Raises ValueError for a limit
        below 1.
        """
        return self._events.reader(limit)

    # ---- pause ----

    @property
    def paused(self) -> bool:
        """Whether the node takes no new sessions as responder. ``udpring pause`` may have set it."""
        return self._live().paused

    def pause(self) -> None:
        """Takes no new sessions as responder, until ``resume``.

        The node drops an initiation (counted as ``paused`` in ``stats.control.dropped``, and reported as
        ``PeerRefused``) unless the peer's last handshake was completed less than 180 s ago, which is as long
        as a session lasts. So sessions live on and are renewed. The node itself still initiates handshakes.
        """
        self._live().set_paused(True)

    def resume(self) -> None:
        """Takes new sessions again. Peers that were refused try again within seconds, while they have
        something to send."""
        self._live().set_paused(False)

    async def drain(self, timeout: float, *, quiet: float = 15.0) -> tuple[str, ...]:
        """Pauses the node and waits until its peers have ended their work, at most ``timeout`` seconds.
        Returns the public keys, in base64, of the peers that have not; none: the node may be stopped without
        loss.

        A peer has ended its work when its last handshake is 180 s old, so that its session is over, or when
        no data passed for ``quiet`` seconds, in either direction. Keepalives and handshakes are no data. The
        node looks once a second at each peer; a lone packet that is answered between two looks may be
        missed. As no peer's past is known at first, it takes ``quiet``
        seconds at least where there are sessions. The node stays paused, also when this is cancelled.
        """
        tunnel = self._live()
        tunnel.set_paused(True)
        return await busy_peers(tunnel, timeout, quiet)

    # ---- state ----

    @property
    def name(self) -> str:
        """The interface's name."""
        return self._live().name

    @property
    def tier(self) -> str:
        """The tier in use. ``tier_reason`` says why it is not a better one."""
        return self._live().plane.stats().tier

    @property
    def tier_reason(self) -> str:
        """Why each better tier was not taken. Empty for the best tier."""
        return self._live().plane.tier_reason

    @property
    def aead(self) -> str:
        """The AEAD library in use. Names one for each cipher where peers have ``Cipher = aes-256-gcm``."""
        return self._live().aead

    @property
    def listen_port(self) -> int:
        """The UDP port. The kernel chose it where the configuration has none."""
        return self._live().listen_port

    @property
    def public_key(self) -> str:
        """The node's own public key, in base64."""
        key = self._live().device.public_key
        return "" if key is None else to_base64(key)

    def _packets_end(self) -> tuple[Attached, Device]:
        return self._attached_of(), self._live().device

    @property
    def config(self) -> Config:
        """The configuration as it is now: the one of the start or the last reload, with every change since,
        also by ``wg``. Endpoints are as configured, not where peers roamed to. After a change the next read
        takes time with the number of peers."""
        tunnel = self._tunnel
        if tunnel is not None and self._applied is not None and self._applied != tunnel.settings:
            live = changed_interface(self._config.interface, tunnel, self._applied)
            self._config = replace(self._config, interface=live, peers=self._live_peers().configs())
            self._applied = tunnel.settings
        return self._config

    @property
    def peers(self) -> tuple[NodePeer, ...]:
        """All peers as they are now, in the order of their addition. ``peer`` reads one."""
        return tuple(self._live_peers())

    def peer(self, public_key: bytes | str) -> NodePeer | None:
        """One peer as it is now, given by its key as bytes or in base64; None where there is none. The cost
        does not depend on the number of peers."""
        return self._live_peers().find(key_bytes(public_key))

    @property
    def stats(self) -> TunnelStats:
        """All counters: ``stats.plane`` of packets, ``stats.control`` of handshakes and timers."""
        return self._live().stats()

    def _live(self) -> Tunnel:
        if self._tunnel is None:
            raise ClosedError("the node is not up: await node.start(), or async with")
        return self._tunnel

    def _live_peers(self) -> NodePeers:
        self._live()
        assert self._peers is not None
        return self._peers

    def _attached_of(self) -> Attached:
        if self._attached is None:
            raise ClosedError("the node is not up")
        return self._attached

    def _spaces(self) -> Namespaces:
        attached = self._attached_of()
        if not isinstance(attached, AttachedRootless):
            raise TypeError("this is of rootless nodes: Node(config, attachment=Rootless())")
        return attached.spaces

    async def _apply_interface(self, config: Config) -> None:
        wanted = self._set_up_interface
        if wanted is None:
            wanted = bool(config.interface.addresses)
        tunnel, attached = self._live(), self._attached_of()
        if isinstance(attached, AttachedPackets):
            attached.set_mtu(config.interface.mtu)
            return
        if not wanted:
            await attached.undo()
            return
        if self._following is not None:
            await self._following.settled(NAMES_WAIT)
        endpoints = [
            ipaddress.ip_address(state.endpoint.ip)
            for state in tunnel.states().values()
            if state.endpoint is not None
        ]
        await attached.set_up(config, endpoints, tunnel.set_fwmark)
