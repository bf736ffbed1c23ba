"""The broker process of a confined node: requests, their bounds, and its rights."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import json
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from seccomp import run_python

from udpring.cli import _up_broker
from udpring.cli._up_request import UpRequest
from udpring.cli._up_steps import planned
from udpring.errors import HostError
from udpring.tunnel import broker_services, daemon
from udpring.tunnel.broker import CHILDREN_MAX, Broker, Service, serve
from udpring.tunnel.capabilities import held
from udpring.tunnel.config import Config

# Python 3.12 and later warn of a fork beside threads, which other tests may have left.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
CONFIG = f"[Interface]\nPrivateKey = {'A' * 42}8=\nMTU = 1420\n"


@pytest.fixture
def up_broker(tmp_path: Path) -> Iterator[Broker]:
    request = UpRequest("udr-none", tmp_path / "udr-none.conf", Config.loads(CONFIG), True, False, {})
    with closing(_up_broker.start(request)) as broker:
        yield broker


def test_plan_takes_endpoints_of_all_peers(up_broker: Broker) -> None:
    """More than one request holds."""
    endpoints = [ipaddress.ip_address(f"2001:db8:{'ffff:' * 5}{number:x}") for number in range(5000)]
    for _ in range(2):
        assert planned(up_broker, endpoints) == {"mark": 0, "warnings": []}


def test_endpoints_of_a_plan_are_bounded(up_broker: Broker) -> None:
    parts = range(0, _up_broker.ENDPOINTS_MAX, 4096)
    for start in parts:
        words = [str(ipaddress.ip_address(start + number)) for number in range(4096)]
        up_broker.call("endpoints", addresses=words, first=start == 0)
    with pytest.raises(HostError, match="endpoints"):
        up_broker.call("endpoints", addresses=["192.0.2.1"], first=False)


def test_processes_at_once_are_bounded(tmp_path: Path) -> None:
    """A node that was taken over may ask without end."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    waiting = Service(gate.read_text, own_process=True, abandoned=True)
    with closing(Broker.start(lambda control: serve(control, {"wait": waiting}))) as broker:
        asked = [_asked(broker, "wait") for _ in range(CHILDREN_MAX)]
        with pytest.raises(HostError, match="at once"):
            broker.call("wait")
        gate.write_text("on")  # for one of them, and for all others that have opened it
        for answer in asked:
            answer.close()


def test_ended_processes_make_room() -> None:
    services = {"none": Service(list, own_process=True)}
    with closing(Broker.start(lambda control: serve(control, services))) as broker:
        for _ in range(2 * CHILDREN_MAX):
            assert broker.call("none") == []


def test_node_leaves_a_broker_that_does_not_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("udpring.tunnel.broker.END_SECONDS", 0.2)
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    broker = Broker.start(lambda control: serve(control, {"wait": Service(gate.read_text)}))
    with _asked(broker, "wait"), gate.open("w"):
        broker.close()
        assert "still works after 0.2 s" in caplog.text
    broker.close()


def _asked(broker: Broker, service: str, **arguments: object) -> socket.socket:
    """Sends a request without waiting for its answer."""
    ours, theirs = socket.socketpair()
    with theirs:
        socket.send_fds(broker._control, [json.dumps([service, arguments]).encode()], [theirs.fileno()])
    return ours


def test_node_logs_the_end_of_its_broker() -> None:
    async def lines_at_the_end(broker: Broker) -> str:
        loop = asyncio.get_running_loop()
        said: asyncio.Future[str] = loop.create_future()
        handler = logging.Handler()
        handler.emit = lambda record: said.set_result(record.getMessage())  # type: ignore[method-assign]
        logger = logging.getLogger("udpring.node")
        logger.addHandler(handler)
        try:
            broker.watch(loop)
            os.kill(broker.process, signal.SIGKILL)
            return await asyncio.wait_for(said, 30)
        finally:
            logger.removeHandler(handler)

    with closing(Broker.start(lambda control: serve(control, {}))) as broker:
        assert f"the broker (process {broker.process}) has ended" in asyncio.run(lines_at_the_end(broker))


@pytest.fixture(params=["udpring-wg", "udpring up"])
def program(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Broker]:
    """Starts the broker of this program."""
    if request.param == "udpring-wg":
        return lambda: Broker.start(daemon._help)
    asked = UpRequest("udr-none", tmp_path / "udr-none.conf", Config.loads(CONFIG), True, False, {})
    return lambda: _up_broker.start(asked)


@root
def test_look_up_has_no_rights(program: Callable[[], Broker], monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of the user nor of a capability."""

    def rights(host: str, port: int) -> None:
        raise HostError(f"user {os.getresuid()}, group {os.getresgid()}, {os.getgroups()}, {held()}")

    monkeypatch.setattr(broker_services, "host_addresses", rights)
    nobody = (broker_services.NOBODY,) * 3
    with closing(program()) as broker, pytest.raises(HostError) as said:
        broker.call("addresses", host="example.com", port=1)
    assert said.value.message == f"user {nobody}, group {nobody}, [], 0"


@root
def test_look_up_is_nobody_where_groups_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user namespace may deny setgroups(2)."""

    def refused(groups: object) -> None:
        raise PermissionError(errno.EPERM, "setgroups")

    def user(host: str, port: int) -> None:
        raise HostError(f"user {os.getresuid()}, group {os.getresgid()}")

    monkeypatch.setattr(os, "setgroups", refused)
    monkeypatch.setattr(broker_services, "host_addresses", user)
    nobody = (broker_services.NOBODY,) * 3
    with closing(Broker.start(daemon._help)) as broker, pytest.raises(HostError) as said:
        broker.call("addresses", host="example.com", port=1)
    assert said.value.message == f"user {nobody}, group {nobody}"


@root
def test_look_up_ends_with_the_node(program: Callable[[], Broker], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        address = f"\0udpring-test-{os.getpid()}"
        listening.bind(address)
        listening.listen()

        def wait(host: str, port: int) -> None:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(address)
                connection.recv(1)

        monkeypatch.setattr(broker_services, "host_addresses", wait)
        with closing(program()) as broker:
            _asked(broker, "addresses", host="example.com", port=1)
            listening.settimeout(20)
            looking, _ = listening.accept()
        with looking:
            looking.settimeout(20)
            assert looking.recv(1) == b"", "its process has ended"


def test_look_up_loads_no_module_and_logs_nothing() -> None:
    """Python may lie in a folder of root alone."""
    done = run_python(
        """
import sys
from contextlib import closing
from udpring.tunnel import broker_services
from udpring.tunnel.broker import Broker, serve
real = broker_services.host_addresses
def look_up(host, port):
    sys.meta_path.clear()
    return real(host, port)
broker_services.host_addresses = look_up
services = broker_services.services(broker_services.SocketFiles(), broker_services.NodeWeight(0))
with closing(Broker.start(lambda control: serve(control, services))) as broker:
    print(broker.call("addresses", host="127.0.0.1", port=5))
"""
    )
    assert (done.stdout, done.stderr) == ("[['7f000001', 5, 0]]\n", "")


LOADED = """
import sys
from contextlib import closing
from pathlib import Path
from udpring.cli import wg
from udpring.tunnel import broker_services, daemon
from udpring.tunnel.broker import Broker
def of_wg():
    return Broker.start(lambda control: daemon._help(control, -10))
def of_up():
    from udpring.cli import _up_broker
    from udpring.cli._up_request import UpRequest
    from udpring.tunnel.config import Config
    config = Config.loads(sys.argv[1])
    return _up_broker.start(UpRequest("udr-none", Path("/nowhere"), config, True, False, {}))
broker_services.host_addresses = lambda host, port: [(" ".join(sys.modules).encode(), 0, 0)]
with closing(START()) as broker:
    broker.call("seal")
    [[modules, _, _]] = broker.call("addresses", host="", port=0)
loaded = set(bytes.fromhex(modules).decode().split())
print("json" in loaded, loaded & HEAVY)
"""


@pytest.mark.parametrize("program", ["wg", "up"])
def test_broker_loads_little(program: str) -> None:
    """It runs for as long as the node. Each of these takes from half a MiB to two."""
    heavy = {"asyncio", "cryptography", "ssl", "udpring._core"}
    if program == "wg":
        heavy |= {"inspect", "logging"}
    done = run_python(
        f"import sys; sys.argv[1:] = [{CONFIG!r}]"
        + LOADED.replace("START", f"of_{program}").replace("HEAVY", repr(heavy))
    )
    assert (done.stdout, done.stderr) == ("True set()\n", "")
