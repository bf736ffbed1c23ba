"""Single commands to a plane of the product's module: batches of one. Each returns the command's result."""

from __future__ import annotations

from typing import Any

from udpring._native import ffi, lib

__all__ = [
    "authenticated",
    "index_release",
    "keepalive",
    "keypair",
    "keys_erase",
    "keys_expire",
    "send",
    "source_clear",
    "staged_drop",
]


def _run(plane: Any, kind: int, peer: int, **fields: Any) -> int:
    command = ffi.new("struct udpring_command *", {"kind": kind, "peer": peer, **fields})
    assert lib.udpring_plane_commands(plane, command, 1) == 0
    return int(command.result)


def _addresses(address: Any, local: Any) -> dict[str, Any]:
    given = {"address": address, "local": local}
    return {name: pointer[0] for name, pointer in given.items() if pointer != ffi.NULL}


def keypair(
    plane: Any,
    peer: int,
    cipher: int,
    keys: bytes,
    local_index: int,
    remote_index: int,
    initiator: bool | int,
    birth: int,
) -> int:
    return _run(
        plane,
        lib.UDPRING_COMMAND_KEYPAIR,
        peer,
        cipher=cipher,
        keys=keys,
        local_index=local_index,
        remote_index=remote_index,
        initiator=bool(initiator),
        birth_ns=birth,
    )


def send(
    plane: Any,
    peer: int,
    message: bytes,
    length: int,
    tos: int,
    to: Any,
    source: Any,
    interface_index: int,
    cookie_key: Any,
) -> int:
    return _run(
        plane,
        lib.UDPRING_COMMAND_SEND,
        peer,
        message=message,
        length=length,
        tos=tos,
        interface_index=interface_index,
        awaits_cookie=cookie_key != ffi.NULL,
        cookie_key=b"" if cookie_key == ffi.NULL else bytes(cookie_key),
        **_addresses(to, source),
    )


def authenticated(plane: Any, peer: int, length: int, source: Any, local: Any, interface_index: int) -> int:
    return _run(
        plane,
        lib.UDPRING_COMMAND_AUTHENTICATED,
        peer,
        length=length,
        interface_index=interface_index,
        **_addresses(source, local),
    )


def index_release(plane: Any, index: int) -> int:
    return _run(plane, lib.UDPRING_COMMAND_INDEX_RELEASE, 0, local_index=index)


def keepalive(plane: Any, peer: int) -> int:
    return _run(plane, lib.UDPRING_COMMAND_KEEPALIVE, peer)


def keys_erase(plane: Any, peer: int) -> int:
    return _run(plane, lib.UDPRING_COMMAND_KEYS_ERASE, peer)


def keys_expire(plane: Any, peer: int) -> int:
    return _run(plane, lib.UDPRING_COMMAND_KEYS_EXPIRE, peer)


def source_clear(plane: Any, peer: int) -> int:
    return _run(plane, lib.UDPRING_COMMAND_SOURCE_CLEAR, peer)


def staged_drop(plane: Any, peer: int) -> int:
    return _run(plane, lib.UDPRING_COMMAND_STAGED_DROP, peer)
