"""``udpring bench uring``: every row in small, what is missing, the table, the goals, the picture. Nothing is
timed."""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib.util
import json
import os
import shutil
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from udpring.errors import HostError, UdpringError
from udpring_tools._native import ffi, lib
from udpring_tools.bench import uring
from udpring_tools.bench.uring_plot import draw
from udpring_tools.bench.uring_protocols import PROTOCOLS
from udpring_tools.bench.uring_row import Place, Sizes
from udpring_tools.bench.uring_server import SERVERS
from udpring_tools.bench.uring_streams import ServerProcess
from udpring_tools.bench.uring_table import GOALS, goals_reached, uring_table
from udpring_tools.commands import bench, bench_uring

SMALL = Sizes(file_bytes=1 << 20, files=5, bytes_each=1 << 14, connections=3, sinks=2)
SECONDS = 0.05


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.register(parser.add_subparsers(dest="command"))
    return parser.parse_args(["bench", "uring", *words])


def measured(row: str, directory: Path, runs: int = 1) -> dict[str, Any]:
    return uring.measure([row], SECONDS, runs, directory, lambda _: None, SMALL)


def test_the_command_knows_the_rows() -> None:
    assert tuple(uring.ROWS) == bench_uring.ROWS


def test_goals_name_figures_that_exist(tmp_path: Path) -> None:
    rows = {name: make(Place(tmp_path, SMALL)) for name, make in uring.ROWS.items()}
    for goal in GOALS:
        assert {goal.of, goal.to} <= set(rows[goal.row].contenders)
        assert goal.figure in rows[goal.row].figures


@pytest.mark.parametrize("words", [("--only", "all"), ("--seconds", "0"), ("--runs", "0"), ("--plot",)])
def test_wrong_usage_exits_2(words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as left:
        parsed(*words)
    assert left.value.code == 2


@pytest.mark.parametrize("row", uring.ROWS)
def test_every_contender_of_a_row_is_measured(row: str, tmp_path: Path) -> None:
    result = measured(row, tmp_path)
    assert list(tmp_path.iterdir()) == []
    left_out = [each["contender"] for each in result["left_out"]]
    if "" in left_out:
        pytest.skip(result["left_out"][-1]["why"])  # a file system without O_DIRECT
    wanted = uring.ROWS[row](Place(tmp_path, SMALL)).contenders
    (shown,) = result["rows"]
    assert [each["contender"] for each in shown["contenders"]] == [
        each for each in wanted if each not in left_out
    ]
    for contender in shown["contenders"]:
        assert set(contender["figures"]) == set(shown["figures"]), contender
        for figure in contender["figures"].values():
            assert figure["median"] > 0
            assert len(figure["runs"]) == 1
    assert uring_table(result)


def test_runs_go_back_and_forth(tmp_path: Path) -> None:
    said: list[str] = []
    result = uring.measure(["nops"], 0.01, 2, tmp_path, said.append, SMALL)
    order = [line.split("nops: ")[1] for line in said if line.startswith("run ")]
    assert order[: len(order) // 2] == order[len(order) // 2 :][::-1]
    assert all(len(each["figures"]["nops_cpu_s"]["runs"]) == 2 for each in result["rows"][0]["contenders"])


def test_json_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "uring.png"
    arguments = parsed("--only", "nops", "--runs", "1", "--json", "--plot", str(picture))
    arguments.seconds = SECONDS
    assert bench_uring.run(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert {"udpring", "kernel", "cpu", "load_average", "seconds", "runs", "left_out", "goals"} <= set(result)
    assert [row["row"] for row in result["rows"]] == ["nops"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_what_is_not_installed_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are measured, and the result says how to install it."""
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "liburing" else found(name))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    result = uring.measure(["nops", "http"], SECONDS, 1, tmp_path, lambda _: None, SMALL)
    (row,) = result["rows"]
    assert [each["contender"] for each in row["contenders"]] == [
        "udpring prepared",
        "udpring queue_many",
        "udpring nop()",
    ]
    text = uring_table(result)
    assert "left out: nops, liburing: the package liburing is not installed: pip install liburing" in text
    assert "wrk is not installed: apt-get install wrk" in text
    assert not goals_reached(result)


def test_host_that_denies_rings_measures_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise HostError("no rings here", cure="allow them")

    monkeypatch.setattr("udpring_tools.bench.uring_files.Ring", refuse)
    result = measured("reads", tmp_path, runs=2)
    (row,) = result["rows"]
    assert "udpring" not in [each["contender"] for each in row["contenders"]]
    assert all(len(each["figures"]["reads_s"]["runs"]) == 2 for each in row["contenders"])
    assert [each["why"] for each in result["left_out"] if each["contender"] == "udpring"] == [
        "no rings here (allow them)"
    ]


def test_file_system_without_direct_reads_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, "no O_DIRECT")

    monkeypatch.setattr(os, "preadv", refuse)
    result = measured("reads", tmp_path)
    assert result["rows"] == []
    assert f"the file system of {tmp_path} has no O_DIRECT" in result["left_out"][-1]["why"]
    assert list(tmp_path.iterdir()) == []


def test_directory_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="is no directory"):
        measured("files", tmp_path / "absent")


def test_files_are_removed_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("udpring_tools.bench.uring_files._plain_files", fail)
    with pytest.raises(KeyboardInterrupt):
        measured("files", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_server_that_does_not_start_says_why() -> None:
    with pytest.raises(HostError, match="carrier pigeons did not start: KeyError"):
        ServerProcess("echo", "carrier pigeons")


def test_server_that_ends_early_says_why() -> None:
    """Work that it does not know is noticed after its port is known."""

    def ask() -> None:
        with ServerProcess("carrier pigeons", "streams") as server:
            assert server._process.wait(20)
            raise UdpringError("nobody answers")

    with pytest.raises(HostError, match="the server streams ended: KeyError: 'carrier pigeons'"):
        ask()


def test_server_ends_with_its_parent() -> None:
    with ServerProcess("echo", "asyncio") as server:
        server._process.communicate(timeout=20)  # closes its input
        assert server._process.returncode == 0


@pytest.mark.parametrize("way", SERVERS)
@pytest.mark.parametrize("work", ["echo", "sink"])
def test_servers_do_their_work(work: str, way: str) -> None:
    """Each byte comes back, or none."""
    payload = os.urandom(300_000)
    with (
        ServerProcess(work, way) as server,
        socket.create_connection(("127.0.0.1", server.port), 20) as sock,
    ):
        sender = threading.Thread(target=lambda: (sock.sendall(payload), sock.shutdown(socket.SHUT_WR)))
        sender.start()
        found = b""
        while data := sock.recv(65536):
            found += data
        sender.join()
        assert found == (payload if work == "echo" else b"")


@pytest.mark.parametrize("work", [each for each in PROTOCOLS if each.startswith("http")])
def test_http_servers_answer_and_keep_alive(work: str) -> None:
    head = b"GET / HTTP/1.1\r\nHost: here\r\n"
    with (
        ServerProcess(work, "asyncio") as server,
        socket.create_connection(("127.0.0.1", server.port), 20) as sock,
        sock.makefile("rwb") as stream,
    ):
        for last in (False, True):
            stream.write(head + (b"Connection: close\r\n" if last else b"") + b"\r\n")
            stream.flush()
            assert stream.readline().startswith(b"HTTP/1.1 200")
            while stream.readline().strip():
                pass
            assert stream.read(13) == b"Hello, world!"
        assert stream.read() == b""


# -- the clients in C --


class Peer:
    """The other end of some connections, on a thread for each."""

    def __init__(self, answer: Any, count: int = 3) -> None:
        pairs = [socket.socketpair() for _ in range(count)]
        self.socks = [one for one, _ in pairs]
        self.fds = ffi.new("int32_t[]", [sock.fileno() for sock in self.socks])
        self.received = 0
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._serve, args=(two, answer)) for _, two in pairs]

    def _serve(self, sock: socket.socket, answer: Any) -> None:
        with sock, contextlib.suppress(ConnectionError):
            while data := sock.recv(65536):
                with self._lock:
                    self.received += len(data)
                reply = answer(data)
                if reply is None:
                    return
                sock.sendall(reply)

    def __enter__(self) -> Peer:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        for sock in self.socks:
            sock.close()
        for thread in self._threads:
            thread.join(20)


def exchange(peer: Peer, ns: int = 20_000_000, reply: int = 512) -> int:
    times = ffi.new("uint32_t[]", 16)
    code: int = lib.udpring_bench_exchange(peer.fds, len(peer.socks), b"x" * 512, 512, reply, ns, times, 16)
    assert code < 0 or all(ffi.unpack(times, min(code, 16)))
    return code


def test_exchanges_are_counted() -> None:
    with Peer(lambda data: data) as peer:
        count = exchange(peer)
        assert count >= 3
        assert exchange(peer, 1) == 3  # each connection once more
        assert peer.received == 512 * (count + 3)


def test_exchange_ends_with_its_errors() -> None:
    with Peer(lambda data: data) as peer:
        assert exchange(peer, reply=511) == -errno.EPROTO
    with Peer(lambda _: None) as peer:
        assert exchange(peer) == -errno.ECONNRESET
    assert lib.udpring_bench_exchange(ffi.NULL, 0, b"x", 1, 1, 1, ffi.new("uint32_t *"), 1) == -errno.EINVAL


def test_poured_bytes_are_counted() -> None:
    with Peer(lambda _: b"") as peer:
        sent = lib.udpring_bench_pour(peer.fds, 3, bytes(10000), 10000, 20_000_000)
        assert sent > 0
        for sock in peer.socks:
            sock.shutdown(socket.SHUT_WR)
        for thread in peer._threads:
            thread.join(20)
        assert peer.received == sent


def test_pouring_ends_with_its_errors() -> None:
    with Peer(lambda _: None) as peer:
        assert lib.udpring_bench_pour(peer.fds, 3, b"xy", 2, 20_000_000_000) in (
            -errno.EPIPE,
            -errno.ECONNRESET,
        )
        assert lib.udpring_bench_pour(peer.fds, 65, b"xy", 2, 1) == -errno.EINVAL


# -- the result --


def contender(name: str, median: float) -> dict[str, Any]:
    return {"contender": name, "figures": {"nops_cpu_s": {"median": median, "runs": [median, None]}}}


RESULT: dict[str, Any] = {
    "udpring": "0.1.0",
    "kernel": "6.18.0",
    "machine": "x86_64",
    "cpus": 2,
    "cpu": "A CPU",
    "began": "2026-01-01T00:00:00",
    "load_average": [0.0, 1.0],
    "seconds": 1,
    "runs": 2,
    "left_out": [],
    "rows": [
        {
            "row": "nops",
            "title": "nops",
            "figures": {"nops_cpu_s": "nops per CPU-s"},
            "contenders": [contender("udpring prepared", 9e6), contender("liburing", 4e6)],
            "ratios": [{"of": "udpring prepared", "to": "liburing", "figures": {"nops_cpu_s": 2.25}}],
        }
    ],
}


def test_goals_are_shown_with_their_results() -> None:
    (goal,) = goals_reached(RESULT)
    assert (goal["goal"], goal["ratio"], goal["reached"]) == ("at least 2", 2.25, True)
    text = uring_table(RESULT)
    assert "9000000" in text
    assert text.splitlines()[-1].split()[-2:] == ["2.25", "reached"]


def test_a_run_without_figure_is_drawn_too(tmp_path: Path) -> None:
    draw(RESULT, tmp_path / "uring.png")
    assert (tmp_path / "uring.png").read_bytes().startswith(b"\x89PNG")
