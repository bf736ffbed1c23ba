"""``udpring exporter``: names and values of metrics, HTTP on TCP and UNIX sockets, refusals."""

from __future__ import annotations

import builtins
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as classic
from reference.uapi_answers import format_get

from udpring.cli._metrics_server import AT_ONCE, MetricsAddress, MetricsServer
from udpring.cli.main import main
from udpring.errors import ConfigError, HostError
from udpring.tunnel import keys, uapi, up_record
from udpring.tunnel.uapi_report import format_report

from .conftest import KEY, OTHER, PEER, STATE, Server

REPORT = {
    "version": "1.2",
    "node": {"tier": "mmsg", "aead": "openssl", "workers": 2, "paused": False},
    "offloads": {"interface": "csum tso4", "trains_sent": True, "trains_received": True},
    "queues": {"mailbox_events": 1, "send_slots": 256},
    "tables": {"peers": 2},
    "histograms": {
        "receive_batches": {"count": 9, "sum": 40, "buckets": {"1": 3, "2": 0, "4": 4, "8": 1, "more": 1}}
    },
    "interface": {"packets_in": 7, "packets_out": 8, "bytes_in": 70, "bytes_out": 80},
    "receive": {"kernel_drops": 3},
    "handshakes": {"completed": 4, "given_up": 1, "messages_sent": 9, "keepalives_sent": 2},
    "drops": {"no_peer": 12, "spoofed": 0},
    "handshake_drops": {"paused": 5},
    "work": {"passes": 100},
}


class Node(Server):
    """A device of udpring."""

    def serve(self, connection: socket.socket) -> None:
        request = connection.recv(4096)
        if request == b"get=1\n\n":
            connection.sendall(b"".join(format_get(STATE)) + b"errno=0\n\n")
        elif request == b"stats=1\n\n":
            connection.sendall(b"".join(format_report(REPORT)) + b"errno=0\n\n")


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    monkeypatch.setattr(uapi, "SOCKET_DIRECTORY", str(tmp_path))
    running = Node(tmp_path / "wg0.sock")
    running.start()
    yield running
    running.stop()


def samples(text: str, parse: Callable[..., object] = classic) -> dict[tuple[str, ...], float]:
    """(name, label values, sorted...) -> value, without the label interface, which is wg0 throughout."""
    found = {}
    for family in parse(text):  # type: ignore[attr-defined]
        assert family.documentation
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("interface") == "wg0"
            found[sample.name, *sorted(labels.values())] = sample.value
    return found


def test_names_and_values(node: Node, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "elsewhere" / "wg0.conf"
    file.parent.mkdir()
    file.write_text(
        f"[Interface]\n[Peer]\n# friendly_name = garden shed\nPublicKey = {keys.to_base64(PEER)}\n"
    )
    record = up_record.write("wg0", file, allow_hooks=False)
    assert main(["exporter", "--once"]) == 0
    said = capsys.readouterr().out
    found = samples(said)
    record.remove()
    for secret in (keys.to_base64(KEY), KEY.hex()):
        assert secret not in said
    peer, other = (keys.to_base64(PEER), "0.0.0.0/0", "garden shed"), (keys.to_base64(OTHER), "", "")
    wanted: dict[tuple[str, ...], float] = {
        ("wireguard_sent_bytes_total", *peer): 2048,
        ("wireguard_received_bytes_total", *peer): 3,
        ("wireguard_latest_handshake_seconds", *peer): 1_700_000_000,
        ("wireguard_latest_handshake_seconds", *other): 0,
        ("udpring_scrape_success",): 1,
        ("udpring_node_info", "1.2", "mmsg", "openssl", "csum tso4", "true", "true"): 1,
        ("udpring_packets_dropped_total", "no_peer"): 12,
        ("udpring_packets_dropped_total", "spoofed"): 0,
        ("udpring_handshake_messages_dropped_total", "paused"): 5,
        ("udpring_handshakes_total", "completed"): 4,
        ("udpring_handshakes_total", "given_up"): 1,
        ("udpring_interface_packets_total", "in"): 7,
        ("udpring_interface_bytes_total", "out"): 80,
        ("udpring_receive_kernel_drops_total",): 3,
        ("udpring_work_passes_total",): 100,
        ("udpring_mailbox_events",): 1,
        ("udpring_send_slots",): 256,
        ("udpring_peers",): 2,
        ("udpring_workers",): 2,
        ("udpring_receive_batch_datagrams_bucket", "1.0"): 3,
        ("udpring_receive_batch_datagrams_bucket", "2.0"): 3,
        ("udpring_receive_batch_datagrams_bucket", "4.0"): 7,
        ("udpring_receive_batch_datagrams_bucket", "8.0"): 8,
        ("udpring_receive_batch_datagrams_bucket", "+Inf"): 9,
        ("udpring_receive_batch_datagrams_count",): 9,
        ("udpring_receive_batch_datagrams_sum",): 40,
        ("udpring_paused",): 0,
    }
    wanted = {(name[0], *sorted(name[1:])): value for name, value in wanted.items()}
    assert {name: value for name, value in found.items() if name in wanted} == wanted
    assert ("udpring_handshakes_total", "messages_sent") not in found


def test_other_programs_have_the_metrics_of_peers(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["exporter", "--once", "wg0"]) == 0
    found = samples(capsys.readouterr().out)
    assert found["wireguard_sent_bytes_total", "", "0.0.0.0/0", keys.to_base64(PEER)] == 2048
    assert {name[0] for name in found if name[0].startswith("udpring")} == {"udpring_scrape_success"}


def test_interface_that_does_not_answer_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(uapi, "SOCKET_DIRECTORY", str(tmp_path))
    assert main(["exporter", "--once", "wg0"]) == 0
    assert samples(capsys.readouterr().out) == {("udpring_scrape_success",): 0}


@pytest.mark.parametrize("where", ["127.0.0.1:0", "[::1]:0"])
def test_scrapes_over_tcp(node: Node, where: str) -> None:
    server = MetricsServer(MetricsAddress.parse(where))
    server.serve()
    try:
        request = urllib.request.Request(
            f"http://{server.address}/metrics",
            headers={"Accept": "application/openmetrics-text; version=1.0.0"},
        )
        for _ in range(AT_ONCE + 1):
            with urllib.request.urlopen(request, timeout=30) as answer:
                assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
                text = answer.read().decode()
        assert samples(text, openmetrics)["udpring_packets_dropped_total", "no_peer"] == 12
        with pytest.raises(HostError, match="choose another address"):
            MetricsServer(server.address)
    finally:
        server.close()


def test_address_of_another_host_is_explained() -> None:
    with pytest.raises(HostError, match="ip address show"):
        MetricsServer(MetricsAddress.parse("192.0.2.77:9586"))


def test_scrape_over_unix_socket(node: Node, tmp_path: Path) -> None:
    """A file that a killed process left is replaced. A live one is not."""
    path = tmp_path / "metrics"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    server = MetricsServer(MetricsAddress.parse(str(path)))
    server.serve()
    try:
        with pytest.raises(HostError, match="metrics"):
            MetricsServer(MetricsAddress.parse(str(path)))
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(30)
            client.connect(str(path))
            client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            said = b""
            while part := client.recv(65536):
                said += part
        head, _, body = said.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.0 200 ")
        assert samples(body.decode())["udpring_peers",] == 2
    finally:
        server.close()
    assert not path.exists()


def test_silent_clients_leave_room_again(node: Node) -> None:
    """Clients that hold all slots end when they close, and the next scrape is answered."""
    server = MetricsServer(MetricsAddress.parse("127.0.0.1:0"))
    server.serve()
    try:
        where = ("127.0.0.1", server.address.port)
        silent = [socket.create_connection(where, timeout=30) for _ in range(AT_ONCE)]
        for client in silent:
            client.close()
        with urllib.request.urlopen(f"http://{server.address}/", timeout=30) as answer:
            assert answer.status == 200
    finally:
        server.close()


def test_close_does_not_wait_for_scrapes(node: Node) -> None:
    """They may wait for the event loop of the node that closes."""

    earlier = threading.enumerate()  # of other tests. They may end meanwhile

    def scrapes() -> int:
        fresh = set(threading.enumerate()).difference(earlier)
        return sum(thread.name == "udpring-scrape" for thread in fresh)

    server = MetricsServer(MetricsAddress.parse("127.0.0.1:0"))
    server.serve()
    silent = [socket.create_connection(("127.0.0.1", server.address.port)) for _ in range(AT_ONCE)]
    end = time.monotonic() + 60
    while scrapes() < AT_ONCE:
        assert time.monotonic() < end
        time.sleep(0.01)
    server.close()
    for client in silent:
        with client:
            client.setblocking(False)
            with pytest.raises(BlockingIOError):
                client.recv(1)


@pytest.mark.parametrize(
    "text", ["", "9586", ":9586", "localhost:9586", "::1:9586", "1.2.3.4:70000", "1.2.3.4:"]
)
def test_bad_addresses_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:9586"):
        MetricsAddress.parse(text)
    assert main(["exporter", "--listen", text]) == 2
    assert "not an address for metrics" in capsys.readouterr().err


def test_missing_package_has_a_cure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name.startswith("prometheus_client"):
            raise ImportError(name)
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    file = tmp_path / "wgx.conf"
    file.write_text("[Interface]\nPrivateKey = " + "A" * 42 + "E=\n")
    file.chmod(0o600)
    for words in (["exporter"], ["exporter", "--once"], ["up", "--metrics", "127.0.0.1:0", str(file)]):
        assert main(words) == 3
        assert "pip install 'udpring[metrics]'" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command_ends_in_order(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "metrics"
    words = [sys.executable, "-P", "-m", "udpring.cli.main", "exporter", "nosuch0", "--listen", str(path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=os.environ) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == f"metrics at {path}\n"
            assert path.is_socket()
            running.send_signal(number)
            assert running.wait(60) == 0
        finally:
            running.kill()
    assert not path.exists()
