"""Commands of a file in the life of ``udpring up``: their bounds, and the limits that they run with."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from udpring.cli import _up_broker, _up_node
from udpring.cli._up_request import UpRequest
from udpring.cli._up_steps import BrokerSteps, OwnSteps, Steps
from udpring.errors import HostError
from udpring.tunnel.broker import Broker
from udpring.tunnel.config import Config

# Python 3.12 and later warn of a fork beside threads, which other tests may have left.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


def request_for(folder: Path, hook: str) -> UpRequest:
    text = f"[Interface]\nPrivateKey = {'A' * 42}8=\n{hook}\n"
    return UpRequest("udr-none", folder / "udr-none.conf", Config.loads(text), True, True, {})


@pytest.fixture(params=["own", "broker"])
def steps_of(request: pytest.FixtureRequest) -> Iterator[Callable[[UpRequest], Steps]]:
    brokers: list[Broker] = []

    def made(asked: UpRequest) -> Steps:
        if request.param == "own":
            return OwnSteps(asked)
        brokers.append(_up_broker.start(asked))
        return BrokerSteps(brokers[-1])

    yield made
    for each in brokers:
        each.close()


@pytest.mark.parametrize("key", ["PostUp", "PostDown"])
def test_hook_without_end_is_killed_on_the_way_down(
    key: str, steps_of: Callable[[UpRequest], Steps], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its children. One of the way up only when the interface is to go down."""
    monkeypatch.setattr(_up_node, "HOOK_SECONDS", 0.5)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    asked = request_for(tmp_path, f"{key} = (echo begun; exec sleep 1000) > {fifo} & wait")

    async def main() -> None:
        node = _up_node._UpNode(asked, steps_of(asked))
        running = asyncio.ensure_future(node._hooks(key, ("hook",)))
        lines = await asyncio.to_thread(fifo.open)
        with lines:
            assert await asyncio.to_thread(lines.readline) == "begun\n"
            if key == "PostUp":
                node.stop.set_result(signal.SIGTERM)
            with pytest.raises(HostError, match=f"{key} did not end within 0.5 s"):
                await asyncio.wait_for(running, 60)
            assert await asyncio.to_thread(lines.read) == "", "the child has ended"

    asyncio.run(main())


def test_hooks_have_the_dumps_of_before(tmp_path: Path) -> None:
    said = tmp_path / "said"
    asked = request_for(tmp_path, f"PostUp = ulimit -Sc > {said}; cat /proc/self/coredump_filter >> {said}")
    before = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (min(4096, before[1]) if before[1] >= 0 else 4096, before[1]))
    try:
        with closing(_up_broker.start(asked)) as started:
            started.call("hooks", key="PostUp")
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, before)
    assert said.read_text() == "4\n" + Path("/proc/self/coredump_filter").read_text()
