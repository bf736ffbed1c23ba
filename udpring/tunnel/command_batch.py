"""Commands that the plane runs in one crossing: what the control loop does about handshakes and keys.

1. The control loop queues commands in order.
2. ``run`` hands all of them to the plane. The worker wakes once, and not once a command.
3. Each command has a result. One that fails does not stop those behind it.

``native/tunnel/worker/command_batch.c`` is the other side.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any

from udpring._native import check, ffi, lib
from udpring.errors import RingError
from udpring.tunnel.ciphers import CIPHER_NUMBERS
from udpring.tunnel.plane_values import SocketAddress
from udpring.wireguard.cipher import Cipher

__all__ = ["COMMANDS_MAX", "CommandBatch", "Result"]

COMMANDS_MAX: int = lib.UDPRING_COMMANDS_MAX

Result = int | RingError
"""What a command returned, or why it failed."""

# struct udpring_command. One pack is several times quicker than an assignment for each field through cffi.
# Checked against the compiler's layout below.
_COMMAND = struct.Struct("=IIiiIIIIQHHI16sHHI16sBBB32s32s32s148sx")
assert _COMMAND.size == ffi.sizeof("struct udpring_command")
assert ffi.offsetof("struct udpring_command", "message") == _COMMAND.size - 1 - lib.UDPRING_MESSAGE_MAX
_FAMILIES = {4: int(socket.AF_INET), 16: int(socket.AF_INET6)}
_NO_ADDRESS = (0, 0, 0, b"")


class CommandBatch:
    """Room for ``COMMANDS_MAX`` commands, used over and over. Made by ``Plane.batch``."""

    def __init__(self, handle: Callable[[], Any]) -> None:
        """``handle`` returns the plane's C object, or raises ClosedError."""
        self._plane = handle
        self._memory = bytearray(COMMANDS_MAX * _COMMAND.size)
        self._commands = ffi.from_buffer("struct udpring_command[]", self._memory)
        self._about: list[tuple[str, object]] = []

    def __len__(self) -> int:
        return len(self._about)

    def _put(
        self,
        kind: int,
        about: tuple[str, object],
        *,
        peer: int = 0,
        cipher: int = 0,
        length: int = 0,
        interface_index: int = 0,
        local_index: int = 0,
        remote_index: int = 0,
        birth: int = 0,
        address: SocketAddress | None = None,
        local: SocketAddress | None = None,
        initiator: bool = False,
        tos: int = 0,
        cookie_key: bytes | None = None,
        send_key: bytes = b"",
        receive_key: bytes = b"",
        message: bytes = b"",
    ) -> None:
        _COMMAND.pack_into(
            self._memory,
            len(self._about) * _COMMAND.size,
            kind,
            peer,
            0,
            cipher,
            length,
            interface_index,
            local_index,
            remote_index,
            birth,
            *_fields(address),
            *_fields(local),
            initiator,
            cookie_key is not None,
            tos,
            cookie_key or b"",
            send_key,
            receive_key,
            message,
        )
        self._about.append(about)

    # ---- messages ----

    def send(
        self,
        peer: int,
        message: bytes,
        *,
        tos: int = 0,
        to: SocketAddress | None = None,
        source: SocketAddress | None = None,
        interface_index: int = 0,
        cookie_key: bytes | None = None,
    ) -> None:
        """Sends a handshake message to the peer's endpoint, or to ``to`` from the local address ``source``.

        ``cookie_key``: the key that the peer seals cookie replies with, for an initiation or a response. The
        plane then posts the one authentic reply to this message, and no other.

        Fails with EDESTADDRREQ if the peer has no endpoint.
        """
        if len(message) > lib.UDPRING_MESSAGE_MAX:
            raise ValueError(f"no handshake message has {len(message)} bytes")
        if cookie_key is not None and len(cookie_key) != 32:
            raise ValueError(f"a cookie key has 32 bytes, this one {len(cookie_key)}")
        self._put(
            lib.UDPRING_COMMAND_SEND,
            ("send a handshake message to {}", to or f"peer {peer}"),
            peer=peer,
            length=len(message),
            interface_index=interface_index,
            address=to,
            local=source,
            tos=tos,
            cookie_key=cookie_key,
            message=message,
        )

    def authenticated(
        self,
        peer: int,
        length: int,
        source: SocketAddress,
        local: SocketAddress | None,
        interface_index: int = 0,
    ) -> None:
        """Takes in an authentic handshake message of the peer: roams to its source, stamps the receive and
        counts its bytes."""
        self._put(
            lib.UDPRING_COMMAND_AUTHENTICATED,
            ("roam peer {}", peer),
            peer=peer,
            length=length,
            interface_index=interface_index,
            address=source,
            local=local,
        )

    def keepalive(self, peer: int) -> None:
        """Sends an empty data packet. Result 1: none was sent, because staged packets left on the keypair
        that was installed just before. Fails with ENOKEY if there is no session; the plane asks for a
        handshake then."""
        self._put(lib.UDPRING_COMMAND_KEEPALIVE, ("keepalive to peer {}", peer), peer=peer)

    def staged_drop(self, peer: int) -> None:
        """Drops the packets that wait for a session with the peer."""
        about = ("drop the staged packets of peer {}", peer)
        self._put(lib.UDPRING_COMMAND_STAGED_DROP, about, peer=peer)

    def source_clear(self, peer: int) -> None:
        """Forgets the sticky source of the peer: the route decides the source address again."""
        self._put(lib.UDPRING_COMMAND_SOURCE_CLEAR, ("clear the source of peer {}", peer), peer=peer)

    # ---- keys ----

    def keypair(
        self,
        peer: int,
        send_key: bytes,
        receive_key: bytes,
        *,
        local_index: int,
        remote_index: int,
        initiator: bool,
        birth: int,
        cipher: Cipher = Cipher.CHACHA20_POLY1305,
    ) -> None:
        """Installs a keypair: the current one of an initiator, the next one of a responder. Result 1: staged
        packets left on it. The copy of the keys made here is zeroised."""
        if len(send_key) != 32 or len(receive_key) != 32:
            raise ValueError("keys of a keypair have 32 bytes each")
        self._put(
            lib.UDPRING_COMMAND_KEYPAIR,
            ("install a keypair of peer {}", peer),
            peer=peer,
            cipher=CIPHER_NUMBERS[cipher],
            local_index=local_index,
            remote_index=remote_index,
            birth=birth,
            initiator=initiator,
            send_key=send_key,
            receive_key=receive_key,
        )

    def keys_erase(self, peer: int) -> None:
        """Zeroises all keypairs of the peer."""
        self._put(lib.UDPRING_COMMAND_KEYS_ERASE, ("erase the keys of peer {}", peer), peer=peer)

    def keys_expire(self, peer: int) -> None:
        """Stops sending on the peer's keypairs. Receiving continues."""
        self._put(lib.UDPRING_COMMAND_KEYS_EXPIRE, ("expire the keys of peer {}", peer), peer=peer)

    def index_release(self, index: int) -> None:
        """Releases an index that became no keypair's."""
        self._put(lib.UDPRING_COMMAND_INDEX_RELEASE, ("release a receiver index{}", ""), local_index=index)

    # ---- all of them ----

    def run(self) -> list[Result]:
        """Runs what is queued, in order, and returns a result for each. The queue is empty then, also where
        this raises ClosedError."""
        about, self._about = self._about, []
        if not about:
            return []
        try:
            check(lib.udpring_plane_commands(self._plane(), self._commands, len(about)), "run commands")
        except BaseException:
            self._zeroise()
            raise
        commands = self._commands
        return [_result(commands[place].result, what) for place, what in enumerate(about)]

    def clear(self) -> None:
        """Forgets what is queued."""
        self._about = []
        self._zeroise()

    def _zeroise(self) -> None:
        """The memory may hold keys."""
        self._memory[:] = bytes(len(self._memory))


def _fields(address: SocketAddress | None) -> tuple[int, int, int, bytes]:
    """As ``struct udpring_address`` has them."""
    if address is None:
        return _NO_ADDRESS
    return (_FAMILIES[len(address.ip)], address.port, address.scope_id, address.ip)


def _result(code: int, about: tuple[str, object]) -> Result:
    if code >= 0:
        return code
    try:
        return check(code, about[0].format(about[1]))
    except RingError as failed:
        return failed
