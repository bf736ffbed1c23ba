"""Addresses that come and go, announced by rtnetlink in a namespace of their own."""

from __future__ import annotations

import json

import pytest
from lab.isolated import run_isolated

PROGRAM = """
import asyncio, json, subprocess, sys
from udpring.tunnel.network_changes import NetworkChanges
import uvloop

commands = json.loads(sys.argv[2])

async def main():
    loop = asyncio.get_running_loop()
    notified = asyncio.Event()
    calls = []
    changes = NetworkChanges(lambda: (calls.append(1), notified.set()), loop=loop)
    changes.start()
    for command in commands:
        for line in command:
            subprocess.run(["ip", *line.split()], check=True)
        await asyncio.wait_for(notified.wait(), 30)
        notified.clear()
    changes.stop()
    print(json.dumps(len(calls)))

{"asyncio": asyncio.run, "uvloop": uvloop.run}[sys.argv[1]](main())
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize(
    ("first", "second"), [("192.0.2.1/32", "192.0.2.2/32"), ("2001:db8::1/128", "2001:db8::2/128")]
)
def test_addresses_that_come_and_go_are_told(loop: str, first: str, second: str) -> None:
    steps = [
        [f"address add {first} dev lo", f"address add {second} dev lo"],
        [f"address del {first} dev lo"],
    ]
    assert json.loads(run_isolated(PROGRAM, loop, json.dumps(steps))) >= len(steps)
