"""The device: the node's identity, the peers, and each incoming handshake message.

    1. length, type, reserved bytes (the cipher)    messages.parse_handshake
    2. mac1 (initiations and responses)             cookie.mac1_valid
    3. under load: the source's share               ratelimit.RateLimiter
    4. the cipher: does any peer have it?           (initiation: before its first Diffie-Hellman here)
    5. who it is: by static key, under that cipher (initiation), or by receiver index (response, cookie reply)
    6. the cipher: is it this peer's?               (before anything else of the peer is looked at)
    7. the peer's part                              peer.Peer

Where ``asks`` is set, an initiation of an unknown key gives one ``AskKey`` in step 5 instead of a drop. The
caller adds the peer, or not, and ``resume`` goes on with step 6.

Under load the plane checks mac2, and sends cookies, before a message gets here. Otherwise it may also have
read the static key of an initiation (``opened``). A failure at any step gives
one ``Dropped`` with its reason and changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType

from . import noise
from .cipher import Cipher
from .constants import KEY_LENGTH
from .cookie import cookie_key, mac1_key, mac1_valid
from .events import AskKey, Dropped, DropReason, Outcome, RemovedPeer, Source
from .handshake import Identity, IndexTable, OpenedHandshake
from .messages import CookieReply, Initiation, Response, parse_handshake
from .peer import Peer
from .ratelimit import RateLimiter
from .unknown import UnknownInitiation

__all__ = ["Device"]


class Device:
    """The protocol, sans-IO. ``random(n)`` returns n random bytes, fit for keys. ``indices`` gives receiver
    indices. ``identity`` makes the node's key of 32 bytes, and with it the handshakes: by default those of
    ``noise``. ``now`` (boot ns) and ``wall`` (UTC epoch ns) come with each call. One thread at a time."""

    def __init__(
        self,
        *,
        random: Callable[[int], bytes],
        indices: IndexTable,
        identity: Callable[[bytes], Identity] | None = None,
    ) -> None:
        self._random = random
        self._indices = indices
        self._make_identity = identity or noise.StaticKey
        self._identity: Identity | None = None
        self._mac1_key: bytes | None = None
        self._cookie_key = b""
        self._by_key: dict[bytes, Peer] = {}
        self._by_id: dict[int, Peer] = {}
        self.peers: Mapping[bytes, Peer] = MappingProxyType(self._by_key)
        """By public key."""
        self.by_id: Mapping[int, Peer] = MappingProxyType(self._by_id)
        """By the plane's number."""
        self._with_cipher: Counter[Cipher] = Counter()
        self._limiter = RateLimiter()
        self.paused = False
        """Whether initiations are dropped of all but peers that are established (``Peer.is_established``)."""
        self.asks = False
        """Whether an initiation of an unknown key asks for it (``AskKey``)."""

    def __repr__(self) -> str:
        public = self._identity.public.hex() if self._identity else None
        return f"Device(public_key={public}, peers={len(self._by_id)})"

    # ---- identity ----

    @property
    def public_key(self) -> bytes | None:
        return self._identity.public if self._identity else None

    @property
    def identity(self) -> Identity | None:
        """The node's key; None: it has none yet."""
        return self._identity

    @property
    def mac1_key(self) -> bytes | None:
        """The key that the plane checks mac1 with; None: no identity, all handshakes are refused."""
        return self._mac1_key

    @property
    def cookie_key(self) -> bytes | None:
        """The key that the plane seals cookie replies with; None: no identity."""
        return self._cookie_key or None

    def set_private_key(self, key: bytes | None, now: int) -> list[Outcome]:
        """Sets the identity: 32 bytes, clamped here, or None or zeros for none. A peer with the new public
        key is removed (``RemovedPeer``). The sessions of the others expire and are renewed. The same key
        again changes nothing. Raises ValueError for another length."""
        identity = None if key is None or key == bytes(KEY_LENGTH) else self._make_identity(key)
        if (identity and identity.public) == self.public_key:
            return []
        self._identity = identity
        self._mac1_key = mac1_key(identity.public) if identity else None
        self._cookie_key = cookie_key(identity.public) if identity else b""
        outcomes: list[Outcome] = []
        if identity and (ourselves := self._by_key.get(identity.public)):
            outcomes += self.remove_peer(ourselves.id)
            outcomes.append(RemovedPeer(ourselves.id))
        for peer in self._by_id.values():
            outcomes += peer.set_identity(identity, now)
        return outcomes

    # ---- peers ----

    def add_peer(
        self, peer: int, public_key: bytes, now: int, *, initiation: UnknownInitiation | None = None
    ) -> Peer:
        """``initiation``: a proved one of this key, whose shared secret is used.

        Raises ValueError: the key is not 32 bytes long, is the node's own, or the key or the number is in
        use."""
        public_key = bytes(public_key)
        if len(public_key) != KEY_LENGTH:
            raise ValueError(f"a public key has {KEY_LENGTH} bytes, this one {len(public_key)}")
        if public_key == self.public_key:
            raise ValueError("a peer cannot have our own public key")
        if public_key in self._by_key or peer in self._by_id:
            raise ValueError(f"peer {peer} or its public key exists already")
        added = Peer(peer, public_key, random=self._random, indices=self._indices)
        shared = None
        if initiation is not None and self._made_for_us(initiation) and initiation.public_key == public_key:
            shared = initiation.static_static
        added.set_identity(self._identity, now, static_static=shared)
        self._by_key[public_key] = added
        self._by_id[peer] = added
        self._with_cipher[added.cipher] += 1
        return added

    def remove_peer(self, peer: int) -> list[Outcome]:
        """Raises KeyError if there is none. The plane zeroises the keys when it removes the peer."""
        removed = self._by_id.pop(peer)
        del self._by_key[removed.public_key]
        self._with_cipher[removed.cipher] -= 1
        return removed.close()

    def set_cipher(self, peer: int, cipher: Cipher, now: int) -> list[Outcome]:
        """Sets the one cipher for this peer. Sessions with another cipher end at once. Raises KeyError if
        there is no such peer."""
        changed = self._by_id[peer]
        self._with_cipher[changed.cipher] -= 1
        outcomes = changed.set_cipher(cipher, now)
        self._with_cipher[changed.cipher] += 1
        return outcomes

    # ---- messages ----

    def receive(
        self,
        message: bytes,
        source: Source,
        owner: int | None,
        *,
        under_load: bool,
        now: int,
        wall: int,
        opened: OpenedHandshake | None = None,
    ) -> list[Outcome]:
        """One handshake message.

        ``owner``: whose receiver index it names, by the plane's table (responses and cookie replies).
        ``opened``: of an initiation whose mac1 and static key were read elsewhere, with the present identity.
        ``under_load``: each source gets only its share; the plane has seen a valid mac2 then.
        Never raises because of the message's contents.
        """
        message = bytes(message)
        parsed = parse_handshake(message)
        if isinstance(parsed, DropReason):
            return [Dropped(parsed)]
        if self._identity is None or self._mac1_key is None:
            return [Dropped(DropReason.NO_IDENTITY)]
        if isinstance(parsed, CookieReply):
            peer = self._owner(owner)
            if peer is None:
                return [Dropped(DropReason.UNKNOWN_INDEX)]
            if peer.cipher is not parsed.cipher:
                return [Dropped(DropReason.CIPHER_MISMATCH, peer.id)]
            return peer.receive_cookie(parsed, now)
        if opened is None and not mac1_valid(self._mac1_key, message):
            return [Dropped(DropReason.BAD_MAC1)]
        if under_load and not self._limiter.allow(source.ip, now):
            return [Dropped(DropReason.RATE_LIMITED)]
        if isinstance(parsed, Response):
            peer = self._owner(owner)
            if peer is None:
                return [Dropped(DropReason.UNKNOWN_INDEX)]
            if peer.cipher is not parsed.cipher:
                return [Dropped(DropReason.CIPHER_MISMATCH, peer.id)]
            return peer.receive_response(parsed, source, now, wall)
        return self._receive_initiation(parsed, self._identity, source, now, opened)

    def _receive_initiation(
        self,
        message: Initiation,
        identity: Identity,
        source: Source,
        now: int,
        opened: OpenedHandshake | None,
    ) -> list[Outcome]:
        cipher = message.cipher
        if self._by_id and not self._with_cipher[cipher] and not self.asks:
            return [Dropped(DropReason.CIPHER_MISMATCH)]
        responder = opened or identity.responder(cipher)
        try:
            static = opened.claimed if opened else responder.read_static(message.noise)
        except noise.InvalidKeyError:
            return [Dropped(DropReason.INVALID_KEY)]
        except noise.NoiseError:
            return [Dropped(DropReason.UNAUTHENTICATED)]
        peer = self._by_key.get(static)
        if self.paused and (peer is None or not peer.is_established(now)):
            return [Dropped(DropReason.PAUSED, peer.id if peer else None, public_key=static)]
        if peer is None:
            if self.asks and static != identity.public:
                return [AskKey(UnknownInitiation(static, source, message, responder, identity))]
            return [Dropped(DropReason.UNKNOWN_PEER, public_key=static)]
        if peer.cipher is not cipher:
            return [Dropped(DropReason.CIPHER_MISMATCH, peer.id)]
        return peer.receive_initiation(message, responder, source, now)

    def resume(self, initiation: UnknownInitiation, now: int) -> list[Outcome]:
        """Goes on with an initiation that was unknown when it came: its peer has been added, or not. Once for
        each."""
        peer = self._by_key.get(initiation.public_key)
        if peer is None:
            return [Dropped(DropReason.UNKNOWN_PEER, public_key=initiation.public_key)]
        if self.paused:
            return [Dropped(DropReason.PAUSED, peer.id)]
        if not self._made_for_us(initiation):
            return [Dropped(DropReason.UNAUTHENTICATED, peer.id)]
        if peer.cipher is not initiation.message.cipher:
            return [Dropped(DropReason.CIPHER_MISMATCH, peer.id)]
        return peer.receive_initiation(
            initiation.message, initiation.responder, initiation.source, now, timestamp=initiation.timestamp
        )

    def _made_for_us(self, initiation: UnknownInitiation) -> bool:
        """Our key may have changed since it came."""
        return initiation.identity is self._identity

    def _owner(self, owner: int | None) -> Peer | None:
        return None if owner is None else self._by_id.get(owner)
