"""The table of docs/limits.md has the numbers of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from udpring._native import lib
from udpring.tunnel import plane_options, timestamp_file, tunnel, uapi_clients
from udpring.wireguard import constants

TOP = Path(__file__).resolve().parent.parent
LIMITS_H = (TOP / "udpring/native/tunnel/limits.h").read_text()
TABLE = dict(
    re.findall(r"^\| ([^|]+) \| ([^|]+) \| [^|]*\|$", (TOP / "docs/limits.md").read_text(), re.MULTILINE)
)


def of_header(name: str) -> int:
    """A number of limits.h."""
    found = re.search(rf"\b{name} = (\d+)\b", LIMITS_H)
    assert found is not None, name
    return int(found[1])


@pytest.mark.parametrize(
    ("row", "number"),
    [
        ("peers", lib.UDPRING_PEERS_MAX),
        ("workers", lib.UDPRING_WORKERS_MAX),
        ("tunnels within one tunnel", lib.UDPRING_LOOP_HOPS_MAX),
        ("helpers of a `SendRing`", lib.UDPRING_SEND_HELPERS_MAX),
        ("packets on their way out", of_header("OUT_SLOTS")),
        ("staged packets", of_header("STAGED_MAX")),
        ("mailbox", of_header("MAILBOX_DEFAULT")),
        ("peers that wait for a route look-up", of_header("ROUTES_ASKED_MAX")),
        ("interfaces known to be in a VRF", of_header("VRF_SLAVES_MAX")),
        ("handshakes per source under load", constants.RATE_TABLE_SIZE),
        ("clients of a UAPI socket", uapi_clients.MAX_CLIENTS),
        ("timestamps kept across restarts", timestamp_file.ENTRIES_MAX),
    ],
)
def test_the_table_has_the_number(row: str, number: int) -> None:
    assert re.search(rf"\b{number}\b", TABLE[row]), TABLE[row]


def test_python_takes_the_limits_of_the_core() -> None:
    """Each is defined once, in native/tunnel/abi.h."""
    assert lib.UDPRING_PEERS_MAX == tunnel.MAX_PEERS
    assert lib.UDPRING_WORKERS_MAX == plane_options.WORKERS_MAX
    for name in ("PEERS_MAX", "WORKERS_MAX", "LOOP_HOPS_MAX"):
        assert f"{name} = UDPRING_{name}," in LIMITS_H
