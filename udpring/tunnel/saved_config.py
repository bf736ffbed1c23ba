"""``udpring save``, and ``SaveConfig = true`` on the way down: the running interface written to its file.

As in wg-quick: the present keys, port, mark and peers, the interface's addresses, the MTU if the file has
one, and the file's DNS, Table and commands. Comments are lost, except peers' names.
"""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

from udpring.errors import HostError
from udpring.tunnel import uapi
from udpring.tunnel.config import Config, Endpoint, InterfaceAddress, Network, PeerConfig
from udpring.tunnel.uapi import DeviceInfo, PeerInfo
from udpring.tunnel.uapi_client import UapiClient

__all__ = ["live_config", "save", "write_private"]


def save(interface: str, file: Path, loaded: Config) -> None:
    """Writes the running configuration to ``file``, which holds ``loaded``. Blocks on the interface's
    process.

    Raises HostError on failure. The file is unchanged then.
    """
    state = UapiClient(interface, uapi.SOCKET_DIRECTORY).get()
    addresses, mtu = _interface(interface, loaded.interface.addresses)
    config = live_config(loaded, state, addresses, mtu)
    write_private(file, config.dumps())


def live_config(
    loaded: Config, state: DeviceInfo, addresses: tuple[InterfaceAddress, ...], mtu: int
) -> Config:
    """``loaded`` with the live values in place of the file's."""
    settings = replace(
        loaded.interface,
        private_key=state.private_key,
        listen_port=state.listen_port,
        fwmark=state.fwmark,
        addresses=addresses,
        mtu=None if loaded.interface.mtu is None else mtu,
        offload=state.offload,
    )
    before = {peer.public_key: peer for peer in loaded.peers}
    peers = tuple(_peer(peer, before.get(peer.public_key)) for peer in state.peers)
    return Config(settings, peers, loaded.file)


def _peer(state: PeerInfo, before: PeerConfig | None) -> PeerConfig:
    endpoint, fallbacks = None, before.fallbacks if before else ()
    if before and fallbacks:
        endpoint = before.endpoint  # where the peer is now says nothing of the others
    elif state.endpoint is not None:
        ip, port, scope = state.endpoint
        endpoint = Endpoint(f"{ipaddress.ip_address(ip)}{'%' if scope else ''}{scope}", port)
    networks: list[Network] = [ipaddress.ip_network((ip, cidr)) for ip, cidr in state.allowed_ips]
    return PeerConfig(
        state.public_key,
        preshared_key=state.preshared_key,
        allowed_ips=tuple(networks),
        endpoint=endpoint,
        persistent_keepalive=state.persistent_keepalive,
        name=before.name if before else "",
        cipher=state.cipher,
        offload=state.offload,
        fallbacks=fallbacks,
    )


def _interface(
    name: str, configured: tuple[InterfaceAddress, ...]
) -> tuple[tuple[InterfaceAddress, ...], int]:
    """The addresses, without link-local ones that the kernel made, and the MTU."""
    try:
        done = subprocess.run(
            ("ip", "-json", "address", "show", "dev", name),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as failed:
        raise HostError(f"the configuration cannot be saved: ip: {failed}") from None
    if done.returncode:
        why = " ".join(done.stderr.split()) or f"ip ended with {done.returncode}"
        raise HostError(f"the configuration cannot be saved: {why}")
    (link,) = json.loads(done.stdout)
    found = [ipaddress.ip_interface(f"{each['local']}/{each['prefixlen']}") for each in link["addr_info"]]
    addresses = tuple(each for each in found if not each.is_link_local or each in configured)
    return addresses, int(link["mtu"])


def write_private(file: Path, text: str) -> None:
    """Replaces the file by ``text`` in one step, readable only by its owner (mode 0600)."""
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # made with mode 0600
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as written:
                written.write(text)
                written.flush()
                os.fsync(written.fileno())
            Path(name).replace(file)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as failed:
        raise HostError(
            f"the configuration cannot be saved to {file}: {failed.strerror}",
            errno=failed.errno or 0,
            cure="make the folder writable, and free space there",
        ) from None
