"""The path of packets whose route leads into another tunnel of this host."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
from pathlib import Path

import pytest

from udpring.tunnel import crossed_tunnels
from udpring.tunnel.crossed_tunnels import TunnelView, follow, view_of

FIRST, SECOND, FAR = (ipaddress.ip_address(f"10.66.0.{last}") for last in (1, 2, 3))
KEY = bytes(range(32))
ANSWER = (
    f"private_key={'11' * 32}\nlisten_port=5\nfwmark=51820\npublic_key={KEY.hex()}\n"
    f"preshared_key={'22' * 32}\nallowed_ip=0.0.0.0/0\nallowed_ip=10.66.0.0/16\n"
    "endpoint=10.66.0.2:5\nerrno=0\n\n"
)


def view(endpoint: str, prefix: str = "0.0.0.0/0", fwmark: int = 0) -> TunnelView:
    return TunnelView(fwmark, {ipaddress.ip_network(prefix): KEY}, {KEY: ipaddress.ip_address(endpoint)})


@pytest.mark.parametrize(
    ("second", "through"),
    [
        (view("10.66.0.2"), ["wg1"]),
        (view("10.66.0.3"), []),  # it leaves the host
        (view("10.66.0.2", fwmark=7), []),  # its mark selects another table
        (view("10.66.0.2", "10.77.0.0/16"), []),  # none of its peers gets the packet
        (None, []),  # not a tunnel
    ],
    ids=["circle", "way out", "mark", "no peer", "link"],
)
def test_packets_are_followed_through_other_tunnels(second: TunnelView | None, through: list[str]) -> None:
    routes = {(FIRST, 0): "wg1", (SECOND, 0): "wg0", (FAR, 0): "eth0", (SECOND, 7): "eth0"}
    hops = follow("wg0", FIRST, 0, interface_of=lambda *way: routes.get(way), view={"wg1": second}.get)
    assert [hop.interface for hop in hops] == through
    assert all(hop.endpoint == SECOND for hop in hops)


def test_a_circle_of_others_has_an_end() -> None:
    routes = {(FIRST, 0): "wg1", (SECOND, 0): "wg2"}
    views = {"wg1": view("10.66.0.2"), "wg2": view("10.66.0.1")}
    assert follow("wg0", FIRST, 0, interface_of=lambda *way: routes.get(way), view=views.get) == ()


def test_loopback_leads_into_no_tunnel() -> None:
    assert crossed_tunnels.route_interface(ipaddress.ip_address("127.0.0.1"), 0) is None


@pytest.mark.parametrize("piece", [1, 7, 100, 1000])
def test_a_tunnel_is_asked_through_its_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(crossed_tunnels.uapi, "SOCKET_DIRECTORY", str(tmp_path))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "wg1.sock"))
        listener.listen()

        def serve() -> None:
            with listener.accept()[0] as client:
                client.recv(100)
                for at in range(0, len(ANSWER), piece):
                    client.sendall(ANSWER[at : at + piece].encode())

        thread = threading.Thread(target=serve)
        thread.start()
        found = view_of("wg1")
        thread.join()
    assert found is not None
    assert found.fwmark == 51820
    assert found.endpoint_for(FAR) == SECOND
    assert set(found.owners.values()) == {KEY}


def test_answer_of_a_tunnel_without_end_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crossed_tunnels.uapi, "SOCKET_DIRECTORY", str(tmp_path))
    monkeypatch.setattr(crossed_tunnels, "ANSWER_MAX", 1 << 20)
    monkeypatch.setenv("PATH", str(tmp_path))
    piece, pieces = b"allowed_ip=10.0.0.0/8\n" * 1000, 500
    sent: list[int] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "wg1.sock"))
        listener.listen()

        def talk() -> None:
            with listener.accept()[0] as client, contextlib.suppress(OSError):
                for number in range(pieces):
                    client.sendall(piece)
                    sent.append(number)

        talking = threading.Thread(target=talk)
        talking.start()
        assert view_of("wg1") is None
        talking.join()
    assert len(sent) < pieces


def test_the_kernels_tunnel_is_asked_with_wg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "wg"
    program.write_text(
        "#!/bin/sh\ncase $3 in\n"
        "fwmark) echo 0xca6c;;\nallowed-ips) printf 'K\\t0.0.0.0/0 ::/0\\nL\\t(none)\\n';;\n"
        "endpoints) printf 'K\\t10.66.0.2:5\\nL\\t(none)\\n';;\nesac\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(crossed_tunnels.uapi, "SOCKET_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    found = view_of("wg1")
    assert found is not None
    assert (found.fwmark, found.endpoint_for(FAR)) == (0xCA6C, SECOND)
