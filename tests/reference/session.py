"""The data path in pure Python: transport messages, the replay window, the keypairs of a peer.

4 transport   >=32  type  receiver counter[8]     packet[n+16]

seal: pad -> counter -> AEAD                     open: index -> time and counter -> AEAD -> window -> trim
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cryptography.exceptions import InvalidTag

from udpring.wireguard.cipher import Cipher
from udpring.wireguard.constants import (
    KEEPALIVE_TIMEOUT,
    REJECT_AFTER_TIME,
    REKEY_AFTER_TIME,
    REKEY_TIMEOUT,
)
from udpring.wireguard.events import DropReason, InstallKeypair
from udpring.wireguard.messages import TYPE_TRANSPORT, type_and_cipher
from udpring.wireguard.noise import aead_of

# tests/wireguard/test_constants.py compares these with the core's.
REKEY_AFTER_MESSAGES: Final = 2**60
REJECT_AFTER_MESSAGES: Final = 2**64 - 2**13 - 1
REKEY_AFTER_TIME_RECEIVING: Final = REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT
WINDOW_SIZE: Final = 8128
"""Usable bits of the replay window, as in the kernel on 64-bit machines."""
PADDING: Final = 16


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a key lasts, in messages and in blocks of 16 bytes of plaintext (``blocks_of``).

    Beyond ``rekey`` a sender wants a new key. From ``reject`` on nothing is sent or accepted.
    """

    rekey_messages: int
    reject_messages: int
    rekey_blocks: int
    reject_blocks: int


LIMITS: Final = {
    Cipher.CHACHA20_POLY1305: Limits(REKEY_AFTER_MESSAGES, REJECT_AFTER_MESSAGES, 2**128, 2**128),
    Cipher.AES_256_GCM: Limits(2**30, 2**31, 2**34, 2**35),
}


def blocks_of(length: int) -> int:
    """Blocks of a plaintext of ``length`` bytes, and one more for the tag's mask."""
    return -(-length // 16) + 1


class TransportDrop(StrEnum):
    """Reasons to drop a transport message, besides those for handshake messages."""

    REPLAYED = "replayed"
    """The counter was seen before, or lies behind the window."""
    KEY_EXPIRED = "key_expired"
    """The keypair has exceeded its time or its number of messages."""


_HEAD: Final = struct.Struct("<IIQ")


@dataclass(frozen=True, slots=True)
class Transport:
    """``sealed`` is the packet with its tag."""

    receiver: int
    counter: int
    sealed: bytes
    cipher: Cipher = Cipher.CHACHA20_POLY1305


def parse_transport(message: bytes) -> Transport | DropReason:
    """A message of type 4, or the reason why not: ``BAD_TYPE``, ``BAD_LENGTH``. Any inner length is accepted,
    because some implementations do not pad to 16."""
    if len(message) < 4:
        return DropReason.BAD_LENGTH
    kind, cipher = type_and_cipher(message)
    if kind != TYPE_TRANSPORT or cipher is None:
        return DropReason.BAD_TYPE
    if len(message) < _HEAD.size + 16:
        return DropReason.BAD_LENGTH
    _, receiver, counter = _HEAD.unpack_from(message)
    return Transport(receiver, counter, message[_HEAD.size :], cipher)


def pack_transport_header(receiver: int, counter: int, cipher: Cipher = Cipher.CHACHA20_POLY1305) -> bytes:
    """The 16 bytes before the sealed packet of a transport message."""
    return _HEAD.pack(TYPE_TRANSPORT | cipher.marking, receiver, counter)


_WINDOW_MASK: Final = (1 << (WINDOW_SIZE + 1)) - 1


class ReplayWindow:
    """The counters seen: the greatest, and the 8128 below it. This is RFC 6479 with 8192 bits, one word of 64
    redundant, as in the kernel. Bit n of ``_seen`` is the counter n below the greatest."""

    __slots__ = ("_greatest", "_seen")

    def __init__(self) -> None:
        self._greatest = 0
        self._seen = 0

    def check(self, counter: int) -> bool:
        """Whether the counter is fresh. Changes nothing."""
        if not 0 <= counter < REJECT_AFTER_MESSAGES:
            return False
        behind = self._greatest - counter
        return behind < 0 or (behind <= WINDOW_SIZE and not self._seen >> behind & 1)

    def update(self, counter: int) -> bool:
        """Accepts the counter of an authentic message. False if it is not fresh."""
        if not self.check(counter):
            return False
        ahead = counter - self._greatest
        if ahead > WINDOW_SIZE:
            self._greatest, self._seen = counter, 1
        elif ahead > 0:
            self._greatest, self._seen = counter, (self._seen << ahead | 1) & _WINDOW_MASK
        else:
            self._seen |= 1 << -ahead
        return True


def padding_of(length: int, mtu: int = 0) -> int:
    """The number of zero bytes after an inner packet: to a multiple of 16, but never past the MTU (0:
    unknown). A packet longer than the MTU is cut later, so its last piece counts."""
    if mtu and length > mtu:
        length %= mtu
    padded = -(-length // PADDING) * PADDING
    if mtu:
        padded = min(padded, max(mtu, length))
    return padded - length


def trim_inner(plaintext: bytes) -> bytes | None:
    """The IP packet without padding. None if its version or length is wrong."""
    if len(plaintext) >= 20 and plaintext[0] >> 4 == 4:
        length = int.from_bytes(plaintext[2:4], "big")
        minimum = 20
    elif len(plaintext) >= 40 and plaintext[0] >> 4 == 6:
        length = int.from_bytes(plaintext[4:6], "big") + 40
        minimum = 40
    else:
        return None
    return plaintext[:length] if minimum <= length <= len(plaintext) else None


class Keypair:
    """The keys of one session with counter and window."""

    __slots__ = (
        "_receive",
        "_send",
        "birth",
        "blocks",
        "cipher",
        "counter",
        "expired",
        "initiator",
        "limits",
        "local_index",
        "remote_index",
        "window",
    )

    def __init__(self, keys: InstallKeypair) -> None:
        self.cipher = keys.cipher
        self.limits = LIMITS[keys.cipher]
        self._send = aead_of(keys.cipher, keys.send_key)
        self._receive = aead_of(keys.cipher, keys.receive_key)
        self.local_index = keys.local_index
        self.remote_index = keys.remote_index
        self.initiator = keys.initiator
        self.birth = keys.birth
        self.counter = 0
        self.blocks = 0
        """Blocks sealed so far (``blocks_of``)."""
        self.window = ReplayWindow()
        self.expired = False
        """Set when the private key changed: the keypair sends nothing more."""

    def can_send(self, now: int) -> bool:
        return (
            not self.expired
            and self.counter < self.limits.reject_messages
            and self.blocks < self.limits.reject_blocks
            and now - self.birth < REJECT_AFTER_TIME
        )

    @property
    def used_much(self) -> bool:
        """Whether enough was sent on it that a new one should be made."""
        return self.counter > self.limits.rekey_messages or self.blocks > self.limits.rekey_blocks

    def seal(self, packet: bytes, now: int, *, mtu: int = 0) -> bytes | None:
        """A transport message with this inner packet (empty: a keepalive). None: the keypair is used up."""
        if not self.can_send(now):
            return None
        counter, self.counter = self.counter, self.counter + 1
        padded = packet + bytes(padding_of(len(packet), mtu))
        self.blocks += blocks_of(len(padded))
        return pack_transport_header(self.remote_index, counter, self.cipher) + self._send.encrypt(
            self.cipher.nonce(counter), padded, None
        )

    def open(self, message: Transport, now: int) -> bytes | DropReason | TransportDrop:
        """The plaintext with padding. The window moves only after the tag was verified."""
        if message.cipher is not self.cipher:
            return DropReason.CIPHER_MISMATCH
        if now - self.birth >= REJECT_AFTER_TIME or message.counter >= self.limits.reject_messages:
            return TransportDrop.KEY_EXPIRED
        if not self.window.check(message.counter):
            return TransportDrop.REPLAYED
        try:
            plaintext = self._receive.decrypt(self.cipher.nonce(message.counter), message.sealed, None)
        except InvalidTag:
            return DropReason.UNAUTHENTICATED
        self.window.update(message.counter)
        return plaintext

    def __repr__(self) -> str:
        return f"Keypair(local_index={self.local_index:#x}, initiator={self.initiator}, birth={self.birth})"


@dataclass(frozen=True, slots=True)
class Opened:
    """An authentic transport message. ``packet``: empty for a keepalive; None if the inner packet is no IP
    packet. The message is authentic even then and moves the endpoint. ``confirmed``: the first one on a
    responder's next keypair. ``rekey``: the initiator's key is old enough to replace, reported once per
    key."""

    packet: bytes | None
    confirmed: bool
    rekey: bool


class Session:
    """The keypairs of one peer: previous, current, next (whitepaper section 6.1, the kernel's
    add_new_keypair)."""

    __slots__ = ("_asked_in_last_minute", "current", "next", "previous")

    def __init__(self) -> None:
        self.previous: Keypair | None = None
        self.current: Keypair | None = None
        self.next: Keypair | None = None
        self._asked_in_last_minute = False

    def install(self, keys: InstallKeypair) -> list[int]:
        """Takes a new session. Returns the local indices that are free again."""
        new = Keypair(keys)
        before = self._indices()
        if keys.initiator:
            # The present next one is a session that the peer began at the same time and may use: keep it for
            # receiving.
            self.previous = self.next or self.current
            self.next = None
            self.current = new
            self._asked_in_last_minute = False
        else:
            self.next = new
            self.previous = None
        return sorted(before - self._indices())

    def seal(self, packet: bytes, now: int, *, mtu: int = 0) -> bytes | None:
        """A transport message on the current keypair. None: no keypair may send."""
        return self.current.seal(packet, now, mtu=mtu) if self.current else None

    def rekey_due(self, now: int) -> bool:
        """Whether a send needs a new handshake: by count on both sides, by time on the initiator's."""
        key = self.current
        if key is None or not key.can_send(now):
            return True
        return key.used_much or (key.initiator and now - key.birth >= REKEY_AFTER_TIME)

    def open(self, message: bytes, now: int) -> Opened | DropReason | TransportDrop:
        """Opens one transport message. A failure changes nothing."""
        parsed = parse_transport(message)
        if isinstance(parsed, DropReason):
            return parsed
        key = next((k for k in self._keypairs() if k.local_index == parsed.receiver), None)
        if key is None:
            return DropReason.UNKNOWN_INDEX
        plaintext = key.open(parsed, now)
        if isinstance(plaintext, DropReason | TransportDrop):
            return plaintext
        confirmed = key is self.next
        if confirmed:
            self.previous, self.current, self.next = self.current, self.next, None
            self._asked_in_last_minute = False
        return Opened(trim_inner(plaintext) if plaintext else b"", confirmed, self._old_on_receive(now))

    def erase(self) -> list[int]:
        """Drops all keypairs. Returns their local indices."""
        indices = sorted(self._indices())
        self.previous = self.current = self.next = None
        return indices

    def expire(self) -> None:
        """Stops sending on these keypairs."""
        for key in self._keypairs():
            key.expired = True

    def _old_on_receive(self, now: int) -> bool:
        key = self.current
        if key is None or not key.initiator or self._asked_in_last_minute:
            return False
        self._asked_in_last_minute = now - key.birth >= REKEY_AFTER_TIME_RECEIVING
        return self._asked_in_last_minute

    def _keypairs(self) -> list[Keypair]:
        return [key for key in (self.current, self.previous, self.next) if key]

    def _indices(self) -> set[int]:
        return {key.local_index for key in self._keypairs()}
