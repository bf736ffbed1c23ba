"""Peers that a node gets from a directory when they are needed, and lets go when they are idle.

    an initiation of an unknown key   -> by_key      -> proof, peer, response
    a packet to an unknown address    -> by_address  -> peer, its packets, initiation

A valid answer is a PeerConfig, with the key or the address that was asked for, not our own key, and
with allowed IPs that overlap no other peer's of the directory and equal none of any other. Anything else, a
failure or a time-out refuses this one peer, with a ``PeerRefused`` event that says why. An answer "no" to an
initiation makes its key an ``unknown_peer``, as without a directory.

A sender proves that it has the private key after the answer and before the peer is added. So whoever knows
only registered public keys adds nobody. The last timestamp of a peer that left is remembered, so that its
captured initiations stay replays.

Everything runs in the thread of the event loop. ``directory_limits`` has the bounds.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable
from functools import partial

from udpring.tunnel import directory_limits as limits
from udpring.tunnel.blocking import run_blocking
from udpring.tunnel.bounded_memory import BoundedMemory
from udpring.tunnel.config import IPAddress, PeerConfig
from udpring.tunnel.directory import ChangingDirectory, Directory
from udpring.tunnel.directory_peers import DirectoryPeers, Place, RefusedError
from udpring.tunnel.keys import key_label
from udpring.tunnel.questions import Questions
from udpring.tunnel.resolver import look_up_all
from udpring.tunnel.tunnel import Tunnel
from udpring.wireguard.events import Dropped, DropReason
from udpring.wireguard.unknown import UnknownInitiation

__all__ = ["PeersOnDemand"]

SECOND = 1_000_000_000
RETRY_FIRST, RETRY_LAST = 1.0, 60.0
"""Seconds before a failed feed of changes is followed again."""

log = logging.getLogger("udpring.node")


def _why(failure: BaseException) -> str:
    """For people. The text of the refusal, or the error and where to look."""
    if isinstance(failure, RefusedError | OSError) and not isinstance(failure, TimeoutError):
        return str(failure)
    return f"the directory failed: {failure!r}"[:300]


class PeersOnDemand:
    """Asks ``directory`` for one live tunnel. Owner: its Node.

    refused: called with the key (None where only an address is known) and the reason of each reported
        refusal.
    """

    def __init__(
        self,
        directory: Directory,
        tunnel: Tunnel,
        directory_peers: DirectoryPeers,
        *,
        loop: asyncio.AbstractEventLoop,
        answer_timeout: float,
        refused: Callable[[bytes | None, str], None],
    ) -> None:
        self._directory = directory
        self._tunnel = tunnel
        self._directory_peers = directory_peers
        self._loop = loop
        self._seconds = answer_timeout
        self._refused = refused
        self._keys: Questions[bytes, PeerConfig | None] = Questions(
            loop=loop,
            seconds=answer_timeout,
            at_once=limits.KEYS_AT_ONCE,
            per_source=limits.KEYS_PER_SOURCE,
        )
        self._addresses: Questions[bytes, tuple[PeerConfig, Place] | None] = Questions(
            loop=loop, seconds=answer_timeout, at_once=limits.ADDRESSES_AT_ONCE
        )
        self._waiting: dict[bytes, list[UnknownInitiation]] = {}
        self._keys_refused: BoundedMemory[bytes, bool] = BoundedMemory(limits.KEYS_REFUSED)
        self._addresses_refused: BoundedMemory[bytes, bool] = BoundedMemory(limits.ADDRESSES_REFUSED)
        self._unknown, self._unknown_in = 0, -1
        self._follower: asyncio.Task[None] | None = None

    # ---- life ----

    def start(self) -> None:
        """Begins to ask."""
        self._tunnel.device.asks = True
        self._tunnel.control.key_unknown = self._key_unknown
        self._tunnel.control.address_wanted = self._address_wanted
        if isinstance(self._directory, ChangingDirectory):
            self._follower = self._loop.create_task(self._follow(self._directory))

    async def close(self) -> None:
        """Ends every question. A directory that ignores its cancellation is left behind."""
        self._tunnel.device.asks = False
        tasks: list[asyncio.Task[object]] = [*self._keys.close(), *self._addresses.close()]
        if self._follower is not None:
            self._follower.cancel()
            tasks.append(self._follower)
            self._follower = None
        self._directory_peers.close()
        self._waiting.clear()
        if tasks:
            await asyncio.wait(tasks, timeout=1)

    # ---- by key ----

    def _drop(self, reason: DropReason, key: bytes) -> None:
        self._tunnel.control.carry_out([Dropped(reason, public_key=key)])

    def _key_unknown(self, initiation: UnknownInitiation) -> None:
        key = initiation.public_key
        self._count_unknown()
        if self._keys_refused.get(key, self._loop.time()):
            self._drop(DropReason.UNKNOWN_PEER, key)
            return
        waiting = self._waiting.get(key)
        if waiting is not None:
            waiting.append(initiation)
            for _ in waiting[: -limits.INITIATIONS_PER_KEY]:
                self._drop(DropReason.TOO_MANY_QUESTIONS, key)
            del waiting[: -limits.INITIATIONS_PER_KEY]
            return
        source = initiation.source.ip
        network = source if len(source) == 4 else source[:8]
        if not self._keys.ask(key, partial(self._directory.by_key, key), self._key_answered, network):
            self._drop(DropReason.TOO_MANY_QUESTIONS, key)
            return
        self._waiting[key] = [initiation]

    def _count_unknown(self) -> None:
        """A flood of unknown keys costs a Diffie-Hellman each. Under load only those with a cookie do."""
        second = int(self._loop.time())
        if second != self._unknown_in:
            self._unknown, self._unknown_in = 0, second
        self._unknown += 1
        if self._unknown == limits.UNKNOWN_A_SECOND:
            self._tunnel.plane.under_load()

    def _key_answered(self, key: bytes, answer: PeerConfig | BaseException | None) -> None:
        initiations = self._waiting.pop(key, [])
        try:
            peer = self._checked(answer)
            if peer is None:
                self._remember_key(key, limits.REFUSED_SECONDS)
            elif peer.public_key != key:
                raise RefusedError("the directory answered with another key")
        except RefusedError as wrong:
            self._refuse_key(key, str(wrong))
            peer = None
        for initiation in initiations:
            if peer is None:
                self._drop(DropReason.UNKNOWN_PEER, key)
            else:
                self._admit(peer, initiation)

    def _admit(self, peer: PeerConfig, initiation: UnknownInitiation) -> None:
        """Adds the peer of a proved initiation, and answers it."""
        key = peer.public_key
        if self._tunnel.paused:
            self._drop(DropReason.PAUSED, key)
            return
        if self._tunnel.find(key) is None:
            reason = initiation.prove()
            if reason is None and (initiation.timestamp or b"") <= self._tunnel.last_timestamp(key):
                reason = DropReason.REPLAYED_INITIATION
            if reason is not None:
                self._drop(reason, key)
                return
            try:
                self._directory_peers.add(peer, Place(), initiation)
            except Exception as wrong:
                self._refuse_key(key, _why(wrong))
                self._drop(DropReason.UNKNOWN_PEER, key)
                return
        self._tunnel.control.carry_out(
            self._tunnel.device.resume(initiation, self._tunnel.control.clock.boot())
        )

    def _remember_key(self, key: bytes, seconds: float) -> None:
        self._keys_refused.put(key, True, self._loop.time() + seconds)

    def _refuse_key(self, key: bytes, why: str) -> None:
        self._remember_key(key, limits.FAILED_SECONDS)
        self._tell(key, why)

    def _tell(self, key: bytes | None, why: str) -> None:
        who = key_label(key) if key is not None else "a peer"
        self._tunnel.control.report("refused", logging.WARNING, "%s is refused: %s", who, why)
        self._refused(key, why)

    # ---- by address ----

    def _address_wanted(self, ip: bytes) -> None:
        if self._addresses_refused.get(ip, self._loop.time()):
            self._refuse_address(ip, limits.FAILED_SECONDS)
        elif ip not in self._addresses and not self._addresses.ask(
            ip, partial(self._find, ipaddress.ip_address(ip)), self._address_answered
        ):
            self._refuse_address(ip, 0)

    async def _find(self, ip: IPAddress) -> tuple[PeerConfig, Place] | None:
        """The peer and where it may be. A name is looked up within the same time, if all endpoints are
        names: without an address there would be no use in adding the peer."""
        peer = self._checked(await self._directory.by_address(ip))
        if peer is None:
            return None
        if self._tunnel.find(peer.public_key) is not None or any(each.numeric for each in peer.endpoints):
            return peer, Place()
        if not peer.endpoints:
            left = self._tunnel.departed.get(peer.public_key)
            return peer, Place(last=left.endpoint if left else None)
        failures = []
        for endpoint in peer.endpoints:
            look_up = partial(look_up_all, endpoint)
            try:
                found = await run_blocking(look_up, name="udpring-resolve", abandon=True)
            except (OSError, UnicodeError) as failed:
                failures.append(f"its endpoint {endpoint} has no address: {failed}")
            else:
                return peer, Place({endpoint: found})
        raise RefusedError("; ".join(failures))

    def _address_answered(self, ip: bytes, answer: tuple[PeerConfig, Place] | BaseException | None) -> None:
        key = None
        try:
            if isinstance(answer, BaseException):
                raise answer
            if answer is None:
                self._forget_address(ip, limits.REFUSED_SECONDS)
                return
            peer, place = answer
            key = peer.public_key
            self._take(peer, place, ipaddress.ip_address(ip))
        except Exception as wrong:
            self._forget_address(ip, limits.FAILED_SECONDS)
            address = ipaddress.ip_address(ip)
            self._tell(key, _why(wrong) if key else f"{address}: {_why(wrong)}")

    def _take(self, peer: PeerConfig, place: Place, ip: IPAddress) -> None:
        """Adds the peer that packets wait for, or gives one that is there the address."""
        if not any(ip in network for network in peer.allowed_ips):
            raise RefusedError(f"its AllowedIPs do not have {ip}, for which the directory named it")
        if self._tunnel.find(peer.public_key) is not None:
            self._directory_peers.change(peer)
            return
        if not peer.endpoints and place.last is None:
            raise RefusedError(f"it has no endpoint, so packets to {ip} have nowhere to go")
        self._directory_peers.add(peer, place)

    def _forget_address(self, ip: bytes, seconds: float) -> None:
        self._addresses_refused.put(ip, True, self._loop.time() + seconds)
        self._refuse_address(ip, seconds)

    def _refuse_address(self, ip: bytes, seconds: float) -> None:
        self._tunnel.plane.refuse(ip, int(seconds * SECOND))

    # ---- answers and changes ----

    def _checked(self, answer: PeerConfig | BaseException | None) -> PeerConfig | None:
        if isinstance(answer, BaseException):
            raise RefusedError(_why(answer)) from answer
        if answer is not None and not isinstance(answer, PeerConfig):
            raise RefusedError(f"the directory answered with {type(answer).__name__}, not a PeerConfig")
        if answer is not None and self._tunnel.is_own(answer.public_key):
            raise RefusedError("the directory answered with the node's own key")
        return answer

    async def _follow(self, directory: ChangingDirectory) -> None:
        pause = RETRY_FIRST
        while True:
            try:
                async for key in directory.changes():
                    pause = RETRY_FIRST
                    await self._changed(key)
            except Exception as failed:
                self._tunnel.control.report(
                    "changes", logging.WARNING, "changes of the directory are not followed: %r", failed
                )
            await asyncio.sleep(pause)
            pause = min(2 * pause, RETRY_LAST)

    async def _changed(self, key: bytes) -> None:
        """Anything may be allowed now that was refused. A peer that is here is asked for again."""
        self._keys_refused.pop(key)
        if len(self._addresses_refused):
            self._addresses_refused.clear()
            self._tunnel.plane.forget_refusals()
        if key not in self._directory_peers:
            return
        done: asyncio.Future[PeerConfig | BaseException | None] = self._loop.create_future()

        def answered(_: bytes, answer: PeerConfig | BaseException | None) -> None:
            if not done.done():
                done.set_result(answer)

        question: Questions[bytes, PeerConfig | None] = Questions(
            loop=self._loop, seconds=self._seconds, at_once=1
        )
        try:
            question.ask(key, partial(self._directory.by_key, key), answered)
            self._rechecked(key, await done)
        finally:
            question.close()

    def _rechecked(self, key: bytes, answer: PeerConfig | BaseException | None) -> None:
        if key not in self._directory_peers:
            return
        try:
            peer = self._checked(answer)
            if peer is not None and peer.public_key != key:
                raise RefusedError("the directory answered with another key")
            if peer is None:
                log.debug("%s is in the directory no longer", key_label(key))
                self._directory_peers.dismiss(key)
            else:
                self._directory_peers.change(peer)
        except Exception as wrong:
            self._directory_peers.dismiss(key)
            self._refuse_key(key, _why(wrong))
