"""One peer: its handshakes, in either role, and the actions of its timers.

An initiator has state from its initiation to the response (``_outgoing``). A responder answers one message
with another and has none.

Initiations may cross on the way. If both sides drop their own and answer the other's, there is no session. If
both sides continue with both, each sends on the session it began, and packets are lost at the next change of
keys. Therefore the side with the smaller public key does not answer an initiation that comes within a second
of its own, and the other side does. Either side accepts any answer to its own initiation. A peer with another
rule, or a lost message, costs one retransmission at most.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial

from . import noise
from .cipher import Cipher
from .constants import (
    CROSSING_TIME,
    INITIATION_INTERVAL,
    KEY_LENGTH,
    MAX_PERSISTENT_KEEPALIVE,
    PATH_CHANGE_TIMEOUT,
    REJECT_AFTER_TIME,
    REKEY_TIMEOUT,
    TIMESTAMP_LENGTH,
)
from .cookie import MacSigner, cookie_key
from .events import (
    Authenticated,
    ClearSource,
    Compute,
    Dropped,
    DropReason,
    DropStaged,
    EraseKeys,
    ExpireKeys,
    HandshakeCompleted,
    HandshakeGivenUp,
    HandshakeUnanswered,
    InstallKeypair,
    Outcome,
    PeerSilent,
    PeerStamps,
    ReleaseIndex,
    SendKeepalive,
    SendMessage,
    SilenceReason,
    Source,
    Then,
)
from .handshake import Identity, IndexTable, Job, Keys, Outgoing, ResponderHandshake
from .messages import (
    INITIATION_LENGTH,
    RESPONSE_LENGTH,
    CookieReply,
    Initiation,
    Response,
    pack_initiation,
    pack_response,
)
from .tai64n import next_timestamp
from .timers import Timer, Timers

__all__ = ["Peer"]


class Peer:
    """Made by ``Device.add_peer``. All methods that take ``now`` want it never to run backwards (boot ns)."""

    __slots__ = (
        "_answering",
        "_cipher",
        "_established_at",
        "_identity",
        "_indices",
        "_last_handshake_sent",
        "_last_initiation",
        "_outgoing",
        "_path_is_new",
        "_persistent_keepalive",
        "_preshared_key",
        "_random",
        "_session_live",
        "_signer",
        "_static_static",
        "_timers",
        "_timestamp_received",
        "_timestamp_sent",
        "id",
        "last_handshake_wall",
        "public_key",
    )

    def __init__(
        self, peer: int, public_key: bytes, *, random: Callable[[int], bytes], indices: IndexTable
    ) -> None:
        self.id = peer
        self.public_key = public_key
        self.last_handshake_wall = 0
        """When the last handshake was completed (responder: confirmed); UTC epoch ns, 0: never."""
        self._random = random
        self._indices = indices
        self._preshared_key = noise.NO_PSK
        self._cipher = Cipher.CHACHA20_POLY1305
        self._identity: Identity | None = None
        self._static_static: bytes | None = None
        self._signer = MacSigner(public_key)
        self._timers = Timers(random)
        self._persistent_keepalive = 0
        self._outgoing: Outgoing | None = None
        self._answering: Job | None = None  # the response that is being computed
        self._last_handshake_sent: int | None = None
        self._established_at: int | None = None  # when the last handshake was completed; its session may live
        self._session_live = False  # a session was confirmed since we last sent a handshake message
        self._path_is_new = False  # packets take another path since then
        self._timestamp_sent: bytes | None = None
        self._timestamp_received = b""
        self._last_initiation: int | None = None

    def __repr__(self) -> str:
        return f"Peer(id={self.id}, public_key={self.public_key.hex()})"

    # ---- configuration ----

    @property
    def cookie_key(self) -> bytes:
        """The key that this peer seals its cookie replies with."""
        return cookie_key(self.public_key)

    @property
    def preshared_key(self) -> bytes | None:
        """None: none is configured (the protocol then mixes zeros)."""
        return None if self._preshared_key == noise.NO_PSK else self._preshared_key

    def set_preshared_key(self, key: bytes | None) -> None:
        """Sets the preshared key, from the next handshake on. None or zeros: none. Raises ValueError unless
        it has 32 bytes."""
        if key is not None and len(key) != KEY_LENGTH:
            raise ValueError(f"a preshared key has {KEY_LENGTH} bytes, this one {len(key)}")
        self._preshared_key = noise.NO_PSK if key is None else bytes(key)

    @property
    def cipher(self) -> Cipher:
        """The one cipher for this peer. ``Device.set_cipher`` sets it."""
        return self._cipher

    def set_cipher(self, cipher: Cipher, now: int) -> list[Outcome]:
        """For the device. Sessions with another cipher end, for receiving too. The same cipher again changes
        nothing."""
        if cipher is self._cipher:
            return []
        self._cipher = cipher
        outcomes = self._forget_handshakes(now)
        outcomes.append(EraseKeys(self.id))
        if self._identity is not None and self._persistent_keepalive:
            outcomes.append(SendKeepalive(self.id))
        return outcomes

    def _forget_handshakes(self, now: int) -> list[Outcome]:
        """Ends the handshake under way. The next may begin at once."""
        outcomes: list[Outcome] = list(self._abandon_outgoing())
        self._answering = None
        self._last_handshake_sent = None
        self._established_at = None
        self._session_live = False
        if self._timers.retransmit_at is not None:
            self._timers.retransmit_at = now
        return outcomes

    @property
    def persistent_keepalive(self) -> int:
        """Seconds; 0: off."""
        return self._persistent_keepalive

    def set_persistent_keepalive(self, seconds: int, now: int) -> list[Outcome]:
        """Switching it on sends a keepalive at once. Raises ValueError outside 0 to 65535 seconds."""
        if not 0 <= seconds <= MAX_PERSISTENT_KEEPALIVE:
            raise ValueError(
                f"a persistent keepalive is 0 to {MAX_PERSISTENT_KEEPALIVE} seconds, not {seconds}"
            )
        switched_on = bool(seconds) and not self._persistent_keepalive
        if seconds != self._persistent_keepalive:
            self._timers.persistent_set(seconds, now)
        self._persistent_keepalive = seconds
        return [SendKeepalive(self.id)] if switched_on else []

    def set_identity(
        self, identity: Identity | None, now: int, *, static_static: bytes | None = None
    ) -> list[Outcome]:
        """For the device: our static key has changed (whitepaper: sessions are bound to both static keys).
        ``static_static``: the shared secret of both, where the caller has it."""
        had_identity = self._identity is not None
        outcomes = self._forget_handshakes(now)
        self._identity = identity
        self._static_static = static_static
        if identity is None:
            self._timers.handshake_finished()
        if had_identity:
            outcomes.append(ExpireKeys(self.id))
        if identity is not None and self._persistent_keepalive:
            outcomes.append(SendKeepalive(self.id))
        return outcomes

    def prepare(self) -> None:
        """Computes now what the first handshake would compute."""
        self._shared()

    def _shared(self) -> bytes | None:
        """The shared secret of both static keys. It is computed at the first handshake, since most of very
        many peers are idle. None: there is no identity, or the peer's key has small order, and no handshake
        succeeds."""
        if self._static_static is None and self._identity is not None:
            with suppress(noise.InvalidKeyError):
                self._static_static = self._identity.shared_with(self.public_key)
        return self._static_static

    @property
    def timestamp_received(self) -> bytes:
        """The timestamp of its last authentic initiation; empty: none was received."""
        return self._timestamp_received

    def restore_timestamp(self, timestamp: bytes) -> None:
        """Sets the timestamp of an earlier run: initiations up to it are replays. Raises ValueError unless it
        is empty or has 12 bytes."""
        if len(timestamp) not in (0, TIMESTAMP_LENGTH):
            raise ValueError(f"a TAI64N timestamp has {TIMESTAMP_LENGTH} bytes, this one {len(timestamp)}")
        self._timestamp_received = max(self._timestamp_received, timestamp)

    def suspend(self, state: PeerStamps) -> list[Outcome]:
        """The interface went down: handshakes and timers end, keys go (kernel ``wg_stop``). Staged packets
        are the caller's to drop. ``state``: the plane's, as it is with the keys erased."""
        outcomes: list[Outcome] = list(self._abandon_outgoing())
        self._answering = None
        if self._timers.erase_at is not None:
            outcomes += [EraseKeys(self.id), PeerSilent(self.id, SilenceReason.INTERFACE_DOWN)]
        self._timers.stop(state)
        self._last_handshake_sent = None
        self._established_at = None
        self._session_live = False
        return outcomes

    def resume(self, now: int) -> list[Outcome]:
        """The interface came up: a persistent keepalive starts at once (kernel ``wg_open``)."""
        if not self._persistent_keepalive:
            return []
        self._timers.persistent_begin(now)
        return [SendKeepalive(self.id)]

    def close(self) -> list[Outcome]:
        """For the device: the peer is removed."""
        self._timers.handshake_finished()
        self._identity = None
        self._static_static = None
        self._answering = None
        return list(self._abandon_outgoing())

    def is_established(self, now: int) -> bool:
        """Whether it has a session that may still carry data: its last handshake was completed less than
        180 s ago."""
        return self._established_at is not None and now - self._established_at < REJECT_AFTER_TIME

    # ---- requests of the plane ----

    def handshake_wanted(self, now: int, wall: int) -> list[Outcome]:
        """There is a packet to send without a fresh key, or the key grows old. Sends an initiation. If a
        handshake message was sent less than 5 s ago, the handshake under way continues, or the initiation
        follows when that time is over."""
        return self._initiate(now, wall)

    def key_confirmed(self, now: int, wall: int) -> list[Outcome]:
        """Responder: the first data on the new session has arrived."""
        outcomes: list[Outcome] = list(self._abandon_outgoing())
        outcomes += self._completed(now, wall, initiator=False)
        return outcomes

    def path_changed(self, now: int, wall: int) -> list[Outcome]:
        """Packets to the peer take another path now, so an earlier handshake message may be lost. The next
        initiation waits until one second after the last one, instead of five."""
        if self._session_live or self._last_handshake_sent is None:
            return []
        self._path_is_new = True
        if self._timers.retransmit_at is None or self._shared() is None:
            return []
        if now < self._earliest():
            self._timers.handshake_postponed(self._earliest())
            return []
        return self._send_initiation(now, wall)

    def deadline(self, state: PeerStamps) -> int | None:
        """Boot ns of the next timer; None: none until a stamp changes. Every other method may change it."""
        return self._timers.deadline(state)

    def on_timer(self, now: int, wall: int, state: PeerStamps) -> list[Outcome]:
        """Runs the timers that are due at ``now``."""
        due = self._timers.due(now, state)
        outcomes: list[Outcome] = []
        if Timer.ERASE in due:
            self._session_live = False
            outcomes += [PeerSilent(self.id, SilenceReason.EXPIRED), EraseKeys(self.id)]
        if Timer.RETRANSMIT in due:
            outcomes += self._retransmit(now, wall, state)
        if Timer.NEW_HANDSHAKE in due:
            outcomes += [PeerSilent(self.id, SilenceReason.UNANSWERED), ClearSource(self.id)]
            outcomes += self._initiate(now, wall)
        if Timer.KEEPALIVE in due or (Timer.PERSISTENT in due and state.endpoint is not None):
            outcomes.append(SendKeepalive(self.id))
        return outcomes

    # ---- initiator ----

    def _initiate(self, now: int, wall: int) -> list[Outcome]:
        self._timers.handshake_asked()
        if self._shared() is None:
            return []
        if now < self._earliest():
            if self._timers.retransmit_at is None and not self._session_live:
                self._timers.handshake_postponed(self._earliest())
            return []
        return self._send_initiation(now, wall)

    def _retransmit(self, now: int, wall: int, state: PeerStamps) -> list[Outcome]:
        if self._shared() is None:
            return []
        if (
            now < self._earliest()
        ):  # we answered the peer's initiation since: wait for the confirmation of that session
            self._timers.handshake_postponed(self._earliest())
            return []
        if not self._timers.retry():
            self._timers.given_up(now, state)
            return [*self._abandon_outgoing(), DropStaged(self.id), HandshakeGivenUp(self.id)]
        return [ClearSource(self.id), *self._send_initiation(now, wall)]

    def _earliest(self) -> int:
        """The earliest time of the next initiation: 5 s after the last initiation or response that we sent,
        or 1 s if the path has changed since."""
        if self._last_handshake_sent is None:
            return 0
        return self._last_handshake_sent + (PATH_CHANGE_TIMEOUT if self._path_is_new else REKEY_TIMEOUT)

    def _send_initiation(self, now: int, wall: int) -> list[Outcome]:
        assert self._identity is not None
        index = self._indices.new(self.id)
        unanswered = self._outgoing is not None and not self._path_is_new
        outcomes: list[Outcome] = list(self._abandon_outgoing())
        if unanswered:
            outcomes.append(HandshakeUnanswered(self.id))
        self._timestamp_sent = next_timestamp(wall, self._timestamp_sent)
        handshake = self._identity.initiator(
            self.public_key, static_static=self._shared(), cipher=self._cipher
        )
        job = handshake.initiation_job(self._random(KEY_LENGTH), self._timestamp_sent)
        self._outgoing = outgoing = Outgoing(index, now, handshake)
        self._handshake_sent(now)
        self._timers.handshake_sent(now)
        outcomes += self._computed(job, partial(self._initiation_written, job, outgoing), now, wall)
        return outcomes

    def _initiation_written(self, job: Job, outgoing: Outgoing, now: int, _: int) -> list[Outcome]:
        if self._outgoing is not outgoing:
            return []  # it was abandoned meanwhile
        message = pack_initiation(outgoing.local_index, job.result(), self._cipher)
        return [SendMessage(self.id, self._signer.sign(message, now))]

    def receive_response(self, message: Response, source: Source, now: int, wall: int) -> list[Outcome]:
        """For the device: a response that names one of this peer's indices."""
        outgoing = self._outgoing
        if outgoing is None or outgoing.local_index != message.receiver:
            return [Dropped(DropReason.UNEXPECTED_RESPONSE, self.id)]
        job = outgoing.handshake.reading_job(message.noise, self._preshared_key)
        then = partial(self._response_read, job, outgoing, message.sender, source)
        return self._computed(job, then, now, wall)

    def _response_read(
        self, job: Job, outgoing: Outgoing, remote_index: int, source: Source, now: int, wall: int
    ) -> list[Outcome]:
        if self._outgoing is not outgoing:
            return [Dropped(DropReason.UNEXPECTED_RESPONSE, self.id)]
        try:
            job.result()
        except noise.InvalidKeyError:
            return [Dropped(DropReason.INVALID_KEY, self.id)]
        except noise.NoiseError:
            return [Dropped(DropReason.UNAUTHENTICATED, self.id)]
        self._outgoing = None
        self._timers.session_derived(now)
        return [
            Authenticated(self.id, source, RESPONSE_LENGTH),
            self._keypair(
                outgoing.handshake.split(), outgoing.local_index, remote_index, now, initiator=True
            ),
            SendKeepalive(self.id),
            *self._completed(now, wall, initiator=True),
        ]

    def receive_cookie(self, message: CookieReply, now: int) -> list[Outcome]:
        """For the device: a cookie reply that names one of this peer's indices. It does not prove its source,
        so the endpoint does not move. The next message uses the cookie."""
        opened = self._identity.open_cookie if self._identity else None
        accepted = self._signer.accept(message, now, opened)
        if accepted:
            return []
        reason = DropReason.UNEXPECTED_COOKIE if accepted is None else DropReason.UNAUTHENTICATED
        return [Dropped(reason, self.id)]

    # ---- responder ----

    def receive_initiation(
        self,
        message: Initiation,
        responder: ResponderHandshake,
        source: Source,
        now: int,
        *,
        timestamp: bytes | None = None,
    ) -> list[Outcome]:
        """For the device: an initiation in this peer's name. ``responder`` has read the static key.
        ``timestamp``: its payload, if that has been read too."""
        if (static_static := self._shared()) is None:
            return [Dropped(DropReason.INVALID_KEY, self.id)]
        try:
            if timestamp is None:
                timestamp = responder.read_payload(message.noise, static_static)
        except noise.NoiseError:
            return [Dropped(DropReason.UNAUTHENTICATED, self.id)]
        if timestamp <= self._timestamp_received:
            return [Dropped(DropReason.REPLAYED_INITIATION, self.id)]
        if self._last_initiation is not None and now - self._last_initiation <= INITIATION_INTERVAL:
            return [Dropped(DropReason.INITIATION_FLOOD, self.id)]
        self._timestamp_received = timestamp
        self._last_initiation = now
        authenticated = Authenticated(self.id, source, INITIATION_LENGTH)
        if self._ours_goes_on(now):
            return [authenticated, Dropped(DropReason.CROSSED_INITIATION, self.id)]
        self._handshake_sent(now)
        job = self._answering = responder.response_job(self._random(KEY_LENGTH), self._preshared_key)
        then = partial(self._response_written, job, responder, message.sender, source)
        return [authenticated, *self._computed(job, then, now, timers=False)]

    def _response_written(
        self, job: Job, responder: ResponderHandshake, remote_index: int, source: Source, now: int, _: int
    ) -> list[Outcome]:
        if self._answering is not job:
            return []  # the peer has sent a later initiation meanwhile, or handshakes have ended
        self._answering = None
        body = job.result()
        index = self._indices.new(self.id)
        self._timers.session_derived(now)
        response = pack_response(index, remote_index, body, self._cipher)
        return [
            # Before the response leaves: the peer's first data may follow at once.
            self._keypair(responder.split(), index, remote_index, now, initiator=False),
            SendMessage(self.id, self._signer.sign(response, now), source),
        ]

    def _ours_goes_on(self, now: int) -> bool:
        """Whether our crossing initiation has precedence over an authentic one of the peer."""
        if self._outgoing is None or self._identity is None:
            return False
        return now - self._outgoing.sent_at < CROSSING_TIME and self._identity.public < self.public_key

    # ---- both ----

    def _keypair(self, keys: Keys, local: int, remote: int, now: int, *, initiator: bool) -> InstallKeypair:
        return InstallKeypair(
            self.id,
            *keys,
            local_index=local,
            remote_index=remote,
            initiator=initiator,
            birth=now,
            cipher=self._cipher,
        )

    def _computed(self, job: Job, then: Then, now: int, wall: int = 0, timers: bool = True) -> list[Outcome]:
        return [Compute(self.id, job, then, timers)] if job.deferred else then(now, wall)

    def _handshake_sent(self, now: int) -> None:
        self._last_handshake_sent = now
        self._session_live = False
        self._path_is_new = False

    def _completed(self, now: int, wall: int, *, initiator: bool) -> list[Outcome]:
        self._session_live = True
        self._established_at = now
        self._timers.handshake_finished()
        self.last_handshake_wall = wall
        return [HandshakeCompleted(self.id, initiator)]

    def _abandon_outgoing(self) -> list[ReleaseIndex]:
        outgoing, self._outgoing = self._outgoing, None
        return [] if outgoing is None else [ReleaseIndex(outgoing.local_index)]
