"""The handshakes of ``wireguard.noise`` computed in C (``native/tunnel/crypto/noise.c``), for a live node.

The same bytes come out for the same keys, and the same exceptions. Each message is one call, during which
other threads run. Where the key is ``deferred``, handshake threads make the calls (``handshake_threads``).
Private keys, chaining keys and ephemeral keys stay in C memory, which is zeroised.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, Final

from udpring._native import check, ffi, lib
from udpring.errors import HostError, RingError
from udpring.tunnel.ciphers import CIPHER_NUMBERS
from udpring.wireguard.cipher import Cipher
from udpring.wireguard.constants import KEY_LENGTH, MAC_LENGTH
from udpring.wireguard.messages import COOKIE_REPLY_LENGTH
from udpring.wireguard.noise import NO_PSK, NoiseError, UnauthenticatedError, clamp, small_order

__all__ = ["NativeInitiator", "NativeJob", "NativeResponder", "NativeStaticKey"]

_INITIATION: Final = int(lib.UDPRING_NOISE_INITIATION)
_RESPONSE: Final = int(lib.UDPRING_NOISE_RESPONSE)
_TIMESTAMP: Final = int(lib.UDPRING_NOISE_TIMESTAMP)
_BLANK: Final = bytes(ffi.sizeof("struct udpring_computation"))
_BEFORE_NONCE: Final = bytes(8)
"""Of a cookie reply: its type and the receiver index, which are not authenticated."""
_EARLY: Final = "a response is read once, after the initiation was written"


def _raise_unless_done(code: int, what: str) -> None:
    """Raises what the reference raises. Another code is a failure of the library."""
    if code >= 0:
        return
    if code == -errno.EBADMSG:
        raise UnauthenticatedError("the tag is wrong")
    if code == -errno.EINVAL:
        raise small_order()
    if code == -errno.EPROTO:
        raise NoiseError(_EARLY)
    check(code, what)


def _new_handshake(cipher: Cipher) -> Any:
    made = lib.udpring_handshake_new(CIPHER_NUMBERS[cipher])
    if made == ffi.NULL:
        raise RingError("no memory for a handshake", errno=errno.ENOMEM)
    return ffi.gc(made, lib.udpring_handshake_free)


def _pair(keys: bytes) -> tuple[bytes, bytes]:
    if not keys:
        raise NoiseError("there are no keys before the response")
    return keys[:KEY_LENGTH], keys[KEY_LENGTH:]


class NativeJob:
    """``struct udpring_computation``, and what to do with its result. Owner: the protocol. While handshake
    threads compute it, they alone use ``computation``."""

    __slots__ = ("_erased", "_keep", "_read", "_what", "computation", "deferred")

    def __init__(
        self, kind: int, what: str, read: Callable[[Any], bytes], keep: object, *, deferred: bool
    ) -> None:
        made = lib.udpring_computation_new()
        if made == ffi.NULL:
            raise RingError("no memory for a step of a handshake", errno=errno.ENOMEM)
        self.computation = ffi.gc(made, lib.udpring_computation_free)
        self._erased = False
        self.computation.kind = kind
        self.computation.result = -errno.EINPROGRESS
        self.deferred = deferred
        self._what, self._read = what, read
        self._keep = keep  # what the computation points at

    def run(self) -> None:
        """Computes it here and now."""
        lib.udpring_compute(self.computation)

    def result(self) -> bytes:
        """The message that was computed. Raises NoiseError."""
        if not self.deferred:
            self.run()
        try:
            _raise_unless_done(self.computation.result, self._what)
            return self._read(self.computation)
        finally:
            self.erase()

    def erase(self) -> None:
        """Zeroises the keys in it."""
        ffi.memmove(self.computation, _BLANK, len(_BLANK))
        self._erased = True

    def __del__(self) -> None:
        if not getattr(self, "_erased", True):
            self.erase()  # nobody wanted the result

    def __repr__(self) -> str:
        return f"NativeJob({self._what})"


class NativeStaticKey:
    """``noise.StaticKey``. The scalar stays inside the cryptographic library's object.

    deferred: the jobs of its handshakes go to handshake threads.
    """

    __slots__ = ("deferred", "key", "public")

    def __init__(self, private_key: bytes, *, deferred: bool = False) -> None:
        public = ffi.new("uint8_t[]", KEY_LENGTH)
        key = lib.udpring_static_key_new(clamp(private_key), public)
        if key == ffi.NULL:
            raise HostError(
                "OpenSSL makes no X25519 key", errno=errno.ENOTSUP, cure="enable its default provider"
            )
        self.key = ffi.gc(key, lib.udpring_static_key_free)
        """``struct udpring_static_key``."""
        self.public = bytes(public)
        self.deferred = deferred

    def shared_with(self, public: bytes) -> bytes:
        if len(public) != KEY_LENGTH:
            raise small_order()
        shared = ffi.new("uint8_t[]", KEY_LENGTH)
        _raise_unless_done(lib.udpring_static_key_shared(self.key, public, shared), "a shared secret")
        return bytes(shared)

    def initiator(
        self, remote: bytes, *, static_static: bytes | None = None, cipher: Cipher = Cipher.CHACHA20_POLY1305
    ) -> NativeInitiator:
        """The side that sends the first message, to the owner of ``remote``."""
        return NativeInitiator(self, remote, static_static or self.shared_with(remote), cipher)

    def responder(self, cipher: Cipher = Cipher.CHACHA20_POLY1305) -> NativeResponder:
        """The side that responds."""
        return NativeResponder(self, _new_handshake(cipher))

    def open_cookie(self, key: bytes, nonce: bytes, sealed: bytes, mac1: bytes) -> bytes | None:
        reply = _BEFORE_NONCE + nonce + sealed
        if len(reply) != COOKIE_REPLY_LENGTH or len(mac1) != MAC_LENGTH:
            return None
        cookie = ffi.new("uint8_t[]", MAC_LENGTH)
        code = lib.udpring_cookie_open(key, reply, mac1, cookie)
        if code == -errno.EBADMSG:
            return None
        check(code, "open a cookie reply")
        return bytes(cookie)

    def __repr__(self) -> str:
        return f"NativeStaticKey(public={self.public.hex()})"


class NativeInitiator:
    """``noise.Initiator``."""

    __slots__ = ("_handshake", "_keys", "_remote", "_static", "_static_static")

    def __init__(self, static: NativeStaticKey, remote: bytes, static_static: bytes, cipher: Cipher) -> None:
        self._static, self._remote, self._static_static = static, remote, static_static
        self._handshake = _new_handshake(cipher)
        self._keys = b""

    def initiation_job(self, ephemeral: bytes, payload: bytes) -> NativeJob:
        """``write_initiation``. ``ephemeral``: 32 fresh random bytes. ``payload``: the timestamp."""
        if len(ephemeral) != KEY_LENGTH or len(payload) != _TIMESTAMP:
            raise ValueError("an initiation is made of 32 random bytes and a timestamp of 12")
        job = self._job(lib.UDPRING_COMPUTE_INITIATE, "write an initiation", self._initiation)
        computation = job.computation
        computation.remote = self._remote
        computation.static_static = self._static_static
        computation.ephemeral = ephemeral
        computation.timestamp = payload
        self._static_static = b""
        return job

    def reading_job(self, message: bytes, psk: bytes) -> NativeJob:
        """``read_response``. Several may be under way: forged responses do not end the handshake."""
        if len(message) != _RESPONSE:
            raise UnauthenticatedError(f"a response has {_RESPONSE} bytes")
        job = self._job(lib.UDPRING_COMPUTE_FINISH, "read a response", self._response_read)
        job.computation.message = message
        job.computation.psk = psk
        return job

    def _job(self, kind: int, what: str, read: Callable[[Any], bytes]) -> NativeJob:
        job = NativeJob(kind, what, read, self, deferred=self._static.deferred)
        job.computation.handshake = self._handshake
        job.computation.key = self._static.key
        return job

    def _initiation(self, _: Any) -> bytes:
        return bytes(ffi.buffer(self._handshake.message))

    def _response_read(self, computation: Any) -> bytes:
        if self._keys:
            raise NoiseError(_EARLY)
        self._keys = bytes(ffi.buffer(computation.keys))
        return b""

    def write_initiation(self, ephemeral: bytes, payload: bytes) -> bytes:
        """``noise.Initiator.write_initiation``, for keys that are not deferred."""
        return self.initiation_job(ephemeral, payload).result()

    def read_response(self, message: bytes, psk: bytes = NO_PSK) -> bytes:
        """``noise.Initiator.read_response``, for keys that are not deferred."""
        return self.reading_job(message, psk).result()

    def split(self) -> tuple[bytes, bytes]:
        """The sending and the receiving key, after the response was read."""
        return _pair(self._keys)

    def __repr__(self) -> str:
        return "NativeInitiator(<secret>)"


class NativeResponder:
    """``noise.Responder``. ``handshake``: new, or one that a handshake thread has opened."""

    __slots__ = ("_handshake", "_static")

    def __init__(self, static: NativeStaticKey, handshake: Any) -> None:
        self._static = static
        self._handshake = handshake

    @property
    def claimed(self) -> bytes:
        """The static public key in the first message, not yet proved."""
        return bytes(ffi.buffer(self._handshake.remote))

    def read_static(self, message: bytes) -> bytes:
        """Reads and returns that key. Raises NoiseError."""
        if len(message) != _INITIATION:
            raise UnauthenticatedError(f"an initiation has {_INITIATION} bytes")
        code = lib.udpring_handshake_open(self._handshake, self._static.key, message)
        _raise_unless_done(code, "read an initiation")
        return self.claimed

    def read_payload(self, _: bytes, static_static: bytes | None = None) -> bytes:
        """The timestamp of the same message, which proves the static key. Raises NoiseError."""
        secret = self._static.shared_with(self.claimed) if static_static is None else static_static
        _raise_unless_done(lib.udpring_handshake_prove(self._handshake, secret), "read a timestamp")
        return bytes(ffi.buffer(self._handshake.timestamp))

    def response_job(self, ephemeral: bytes, psk: bytes) -> NativeJob:
        """``write_response`` without a payload. ``ephemeral``: 32 fresh random bytes, which are not kept."""
        if len(ephemeral) != KEY_LENGTH:
            raise ValueError("a response is made of 32 random bytes")
        job = NativeJob(
            lib.UDPRING_COMPUTE_RESPOND,
            "write a response",
            self._response,
            self,
            deferred=self._static.deferred,
        )
        computation = job.computation
        computation.handshake = self._handshake
        computation.ephemeral = ephemeral
        computation.psk = psk
        return job

    def _response(self, _: Any) -> bytes:
        return bytes(ffi.buffer(self._handshake.message, _RESPONSE))

    def write_response(self, ephemeral: bytes, payload: bytes, psk: bytes = NO_PSK) -> bytes:
        """``noise.Responder.write_response``, for keys that are not deferred."""
        if payload:
            raise ValueError("a response of WireGuard has no payload")
        return self.response_job(ephemeral, psk).result()

    def split(self) -> tuple[bytes, bytes]:
        """The sending and the receiving key, after the response was written."""
        handshake = self._handshake
        responded = handshake.step == lib.UDPRING_HANDSHAKE_RESPONDED
        return _pair(bytes(ffi.buffer(handshake.keys)) if responded else b"")

    def __repr__(self) -> str:
        return "NativeResponder(<secret>)"
