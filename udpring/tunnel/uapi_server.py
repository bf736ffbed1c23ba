"""Serves ``wg``: the UAPI's operations applied to a Tunnel, for many clients at once over a UNIX socket.

The flow of one connection:
1. Bytes come in pieces of at most ``TAKE``.
2. Peers whose lines are plain are read in C and applied many at once (``block_applier``). ``wg setconf``
   and ``wg syncconf`` send nearly nothing else.
3. Of all else the codec (``uapi``) yields operations. Each is applied before the next line is parsed, so
   after a bad line the earlier ones stay and the later ones are skipped. Allowed IPs are collected into
   commands of ``PREFIX_BATCH``. Any operation whose result depends on them flushes them first. After some
   lines the event loop gets its turn.
4. An answer is written piece by piece. A client that does not read stops only its own connection.
   ``reporters`` answer the requests of udpring's own commands.
5. A client without progress is closed after a while, or earlier when the table is full and another client
   comes (``uapi_clients``).

No lock is held between lines. Requests of two clients may interleave; each line is applied as a whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeAlias, assert_never

from udpring.tunnel import uapi, uapi_report
from udpring.tunnel.block_applier import BlockApplier
from udpring.tunnel.control import End
from udpring.tunnel.decimal_text import parse_decimal
from udpring.tunnel.flood_gate import FloodGate
from udpring.tunnel.peer_blocks import BLOCK_BEGIN
from udpring.tunnel.plane import PREFIX_BATCH, Prefix, SocketAddress
from udpring.tunnel.socket_file import SocketFile
from udpring.tunnel.tunnel import Tunnel
from udpring.tunnel.tunnel_report import tunnel_report
from udpring.tunnel.uapi_clients import Client, ClientTable, Clock
from udpring.tunnel.uapi_report import Report
from udpring.tunnel.uapi_text import get_answer
from udpring.tunnel.uapi_values import RequestName

__all__ = ["Reporters", "RequestApplier", "UapiServer"]

Reporters: TypeAlias = Mapping[RequestName, Callable[[], Awaitable[Report]]]
"""The requests beside ``get`` and ``set`` that a node answers."""

TAKE = 1 << 18
"""Bytes of requests that are read at once."""
LINES_PIECE = 1 << 14
"""Bytes between two turns of the event loop where lines are read one by one: some hundred, milliseconds of
work."""
BLOCK_MAX = 1 << 16
"""Bytes that are kept of a peer whose other lines have not come."""
PATIENCE = 0.02
"""Seconds that these lines are waited for. Then those that have come are applied."""
PIECE = 1 << 16
"""Bytes of an answer that are written at once."""
NO_MEANS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

log = logging.getLogger("udpring.uapi")


class RequestApplier:
    """Applies the operations of one connection to a tunnel. It remembers the current peer of the request.

    ``apply`` raises OSError (HostError, RingError) and ValueError for operations that fail.
    """

    def __init__(self, tunnel: Tunnel) -> None:
        self._tunnel = tunnel
        self._key: bytes | None = None
        self._peer: int | None = None
        self._ignored = True
        self._created = False
        self._prefixes: list[Prefix] = []

    def apply(self, operation: uapi.SetOperation) -> None:
        """Applies one operation. Allowed IPs may wait for ``flush``."""
        match operation:
            case uapi.AllowedIp(_, ip, cidr, remove):
                self._allowed_ip(ip, cidr, remove)
            case uapi.PeerBegin(public_key):
                self._begin(public_key)
            case uapi.SetPrivateKey(key):
                self._tunnel.set_private_key(key)
            case uapi.SetListenPort(port):
                self._tunnel.set_listen_port(port)
            case uapi.SetFwmark(mark):
                self._tunnel.set_fwmark(mark)
            case uapi.SetPaused(paused):
                self._tunnel.set_paused(paused)
            case uapi.SetDeviceOffload(on):
                self._tunnel.set_offload(on)
            case uapi.ReplacePeers():
                self.flush()
                self._tunnel.remove_all_peers()
            case uapi.PeerRemove() | uapi.PeerUpdateOnly():
                self._remove_or_update(operation)
            case _:
                peer = self._current()
                if peer is not None:
                    self._set_peer(peer, operation)

    def flush(self) -> None:
        """Applies the collected allowed IPs."""
        prefixes, self._prefixes = self._prefixes, []
        # Another client may have removed a peer since its lines came.
        known = self._tunnel.knows
        self._tunnel.apply_allowed_ips([prefix for prefix in prefixes if known(prefix.peer)])

    def end_peer(self) -> None:
        """Applies everything so far. The next lines are about another peer."""
        self.flush()
        self._end_block()

    def finish(self) -> None:
        """Ends the request: applies pending allowed IPs and starts the last peer."""
        try:
            self.flush()
            self._end_block()
        finally:
            self._prefixes = []
            self._key, self._peer, self._ignored = None, None, True

    def _begin(self, public_key: bytes) -> None:
        self._end_block()
        self._key = public_key
        self._peer = self._tunnel.find(public_key)
        self._ignored = self._tunnel.is_own(public_key)
        self._created = False

    def _end_block(self) -> None:
        if self._key is None:
            return
        # An empty block still adds its peer.
        peer = self._current()
        self._key = None
        if peer is not None:
            self._tunnel.start_peer(peer)

    def _current(self) -> int | None:
        """The peer of the block, added now if it is new. None: the block is ignored."""
        if self._ignored or self._key is None:
            return None
        if self._peer is None:
            self._peer = self._tunnel.add_peer(self._key)
            self._created = True
        elif not self._tunnel.knows(self._peer):
            self._ignored = True  # another client removed it in the middle of the block
            return None
        return self._peer

    def _allowed_ip(self, ip: bytes, cidr: int, remove: bool) -> None:
        peer = self._current()
        if peer is None:
            return
        self._prefixes.append(Prefix(ip, cidr, peer, remove))
        if len(self._prefixes) >= PREFIX_BATCH:
            self.flush()

    def _remove_or_update(self, operation: uapi.PeerRemove | uapi.PeerUpdateOnly) -> None:
        known_before = self._peer is not None and not self._created
        if isinstance(operation, uapi.PeerUpdateOnly) and known_before:
            return
        if self._peer is not None:
            self.flush()
            self._tunnel.remove_peer(self._peer)
            self._peer = None
        self._ignored = True

    def _set_peer(self, peer: int, operation: uapi.PeerSetting) -> None:
        tunnel = self._tunnel
        match operation:
            case uapi.SetPresharedKey(key):
                tunnel.set_preshared_key(peer, key)
            case uapi.SetCipher(cipher):
                tunnel.set_cipher(peer, cipher)
            case uapi.SetOffload(on):
                tunnel.set_peer_offload(peer, on)
            case uapi.SetEndpoint(ip, port, scope):
                tunnel.set_endpoint(peer, SocketAddress(ip, port, _scope_id(scope)))
            case uapi.SetKeepalive(seconds):
                tunnel.set_keepalive(peer, seconds)
            case uapi.ReplaceAllowedIps():
                self.flush()
                tunnel.clear_allowed_ips(peer)
            case uapi.ProtocolVersion():
                pass  # the codec lets only version 1 through
            case _:
                assert_never(operation)  # mypy: a setting that nothing applies


def _scope_id(scope: str) -> int:
    number = parse_decimal(scope or "0", uapi.SCOPE_ID_MAX)
    if number is not None:
        return number
    try:
        return socket.if_nametoindex(scope)
    except OSError:
        # Not ENODEV: wg would print "No such device" for the interface.
        raise OSError(errno.EINVAL, f"no interface is called {scope!r}") from None


class UapiServer:
    """Accepts clients on a SocketFile until closed. Owns the socket file."""

    def __init__(
        self,
        tunnel: Tunnel,
        socket_file: SocketFile,
        *,
        clock: Clock | None = None,
        reporters: Reporters | None = None,
    ) -> None:
        self._tunnel = tunnel
        self._blocks = BlockApplier(tunnel)
        self._reporters = {} if reporters is None else reporters
        self._own: Reporters = {"stats": self._stats}
        self._file = socket_file
        self.clients = ClientTable(clock or asyncio.get_running_loop().time)
        self._serving: set[asyncio.Task[None]] = set()
        self._gate = FloodGate()
        self._accepting: asyncio.Task[None] | None = None
        self.gone: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        """Resolved when the socket file is removed, which ends the interface."""

    def start(self) -> None:
        """Begins to accept and to watch the file."""
        loop = asyncio.get_running_loop()
        self._accepting = loop.create_task(self._accept(), name=f"uapi {self._tunnel.name}")
        self._file.watch(loop, self._removed)

    def _removed(self) -> None:
        if not self.gone.done():
            self.gone.set_result(End(f"the socket file {self._file.path} was removed"))

    async def close(self) -> None:
        """Ends all connections and removes the socket file if it is still ours."""
        self.clients.close()
        tasks = [*self._serving, *([self._accepting] if self._accepting else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._accepting = None
        self._file.close()
        self.gone.cancel()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(self._file.socket)
            except OSError as refused:
                await self._not_accepted(refused)
                continue
            client.setblocking(False)
            try:
                await self.clients.room()
            except BaseException:
                client.close()
                raise
            task = loop.create_task(self._serve(self.clients.add(client)))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    async def _not_accepted(self, refused: OSError) -> None:
        """The host lacks descriptors or memory, which an idle client may free, or the client has gone."""
        passes, held = self._gate.passes("accept")
        if passes:
            log.warning("UAPI client not accepted: %s (%d more lines were held back)", refused, held)
        if refused.errno in NO_MEANS:
            self.clients.evict()
        await asyncio.sleep(0.1)  # the socket stays readable

    async def _serve(self, client: Client) -> None:
        with client.socket:
            try:
                await self._converse(client)
            except uapi.UapiProtocolError as wrong:
                log.debug("UAPI client speaks another protocol: %s", wrong)
            except (ConnectionError, TimeoutError):
                pass  # it has gone; its settings stay
            except Exception:
                log.exception("UAPI connection failed")
            finally:
                self.clients.discard(client)

    async def _converse(self, client: Client) -> None:
        applier = RequestApplier(self._tunnel)
        kept = b""
        while True:
            if kept and not await client.readable(PATIENCE):
                await self._carry_out(client, applier, client.parser.feed(kept))
                kept = b""
            data = await client.receive(TAKE)
            if not data:
                break
            kept = await self._take(client, applier, kept + await client.gather(data, TAKE))
        await self._carry_out(client, applier, client.parser.close())

    async def _take(self, client: Client, applier: RequestApplier, data: bytes) -> bytes:
        """Carries out what is in the data. Returns the beginning of a peer whose other lines have not
        come."""
        parser = client.parser
        start = read = 0
        while start < len(data):
            if parser.expects_peer and data.startswith(BLOCK_BEGIN, start):
                start += (taken := self._take_peers(client, applier, data, start))
                if taken:
                    await asyncio.sleep(0)
                    continue
                if parser.expects_peer and self._blocks.unfinished and len(data) - start < BLOCK_MAX:
                    return data[start:]
            # Up to the next peer: C may read that one.
            end = data.find(b"\n" + BLOCK_BEGIN, start, start + LINES_PIECE) + 1 or start + LINES_PIECE
            await self._carry_out(client, applier, parser.feed(data[start:end]))
            read += end - start
            start = end
            if read >= LINES_PIECE:
                read = 0
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        return b""

    def _take_peers(self, client: Client, applier: RequestApplier, data: bytes, start: int) -> int:
        """Applies peers whose lines are plain, many at once. Returns the bytes of their lines."""
        try:
            applier.end_peer()
            taken = self._blocks.take(data, start)
            client.parser.skip_peers(self._blocks.lines)
            return taken
        except Exception as refused:
            client.parser.fail(_errno(refused), str(refused))
            return 0

    async def _carry_out(
        self, client: Client, applier: RequestApplier, operations: Iterable[uapi.Operation]
    ) -> None:
        for operation in operations:
            match operation:
                case uapi.GetRequest():
                    await self._get(client)
                case uapi.ReportRequest(request):
                    await self._report(client, request)
                case uapi.EndRequest():
                    end = self._finish(applier, operation)
                    await self._send(client, [uapi.format_status(end)])
                case _:
                    self._apply(client.parser, applier, operation)

    async def _get(self, client: Client) -> None:
        try:
            await self._send(client, get_answer(self._tunnel))
        except ConnectionError:
            raise  # the client's fault, not the request's
        except Exception as failed:
            client.parser.fail(_errno(failed), str(failed))

    async def _stats(self) -> Report:
        return tunnel_report(self._tunnel)

    async def _report(self, client: Client, request: RequestName) -> None:
        if (reporter := self._own.get(request) or self._reporters.get(request)) is None:
            client.parser.fail(errno.EOPNOTSUPP, f"no {request} requests are answered here")
            return
        try:
            report = await reporter()
        except Exception as failed:
            report = uapi_report.failure(failed)
            client.parser.fail(_errno(failed), str(failed))
        await self._send(client, uapi_report.format_report(report))

    def _apply(
        self, parser: uapi.RequestParser, applier: RequestApplier, operation: uapi.SetOperation
    ) -> None:
        try:
            applier.apply(operation)
        except Exception as refused:
            parser.fail(_errno(refused), str(refused))

    def _finish(self, applier: RequestApplier, end: uapi.EndRequest) -> uapi.EndRequest:
        """Applies the lines before the bad one, even of a failed request."""
        try:
            applier.finish()
        except Exception as refused:
            if not end.errno:
                end = uapi.EndRequest(end.request, _errno(refused), str(refused))
        if end.errno:
            log.info(
                "UAPI %s refused: %s", end.request, end.message or errno.errorcode.get(end.errno, end.errno)
            )
        return end

    async def _send(self, client: Client, lines: Iterable[bytes]) -> None:
        piece = bytearray()
        for line in lines:
            piece += line
            if len(piece) >= PIECE:
                await client.send(piece)
                piece = bytearray()
                await asyncio.sleep(0)
        if piece:
            with contextlib.suppress(BrokenPipeError):
                await client.send(piece)


def _errno(refused: Exception) -> int:
    """The errno of the answer. An unexpected failure is logged with its traceback."""
    match refused:
        case OSError():
            return refused.errno or errno.EIO
        case MemoryError():
            return errno.ENOMEM
        case ValueError() | OverflowError():
            return errno.EINVAL
    log.error("a UAPI request failed", exc_info=refused)
    return errno.EIO
