"""Kernels that are known to damage trains, by their release."""

from __future__ import annotations

import os
import socket

import pytest

from udpring.udp import SendRing
from udpring.udp.probe import probe_udp
from udpring.udp.train_kernels import KERNEL_FAULTS, train_fault


@pytest.mark.parametrize(
    "release",
    [
        "7.0.0",
        "7.0",
        "7.0.0-rc1",
        "7.0.2-6-pve",
        "7.0.0-12-generic",
        "7.0.99",
        "7.1.0-arch1-1",
        "7.1.4",
        "7.1.4+",
    ],
)
def test_known_bad_releases_are_found(release: str) -> None:
    assert train_fault(release) in KERNEL_FAULTS


@pytest.mark.parametrize(
    "release",
    [
        "6.1.0-50-cloud-amd64",
        "6.19.99",
        "7.1.5",
        "7.1.40",
        "7.1.10-1-lts",
        "7.2.0-rc1",
        "70.0.1",
        "8.0",
        "",
        "x",
    ],
)
def test_other_releases_have_no_fault(release: str) -> None:
    assert train_fault(release) is None


def test_the_table_is_in_order() -> None:
    for fault in KERNEL_FAULTS:
        assert fault.first <= fault.last < fault.mended
        assert (
            train_fault(".".join(map(str, fault.first)))
            is train_fault(".".join(map(str, fault.last)))
            is fault
        )
        assert train_fault(".".join(map(str, fault.mended))) is None


@pytest.fixture
def bad_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    faked = os.uname_result((*os.uname()[:2], "7.0.2-6-pve", *os.uname()[3:]))
    monkeypatch.setattr(os, "uname", lambda: faked)


@pytest.mark.usefixtures("bad_kernel")
def test_the_probe_names_the_fault() -> None:
    segment = probe_udp().segment
    assert not segment
    assert segment.reason == "Linux 7.0 to 7.1.4 mangle UDP_SEGMENT sends whose segments are all equal"
    assert probe_udp().gro, "receiving trains is safe"


@pytest.mark.usefixtures("bad_kernel")
@pytest.mark.parametrize(("gso", "trains"), [(None, False), (True, True), (False, False)])
def test_a_ring_sends_singly_unless_told(gso: bool | None, trains: bool) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as source,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink,
        SendRing(source, gso=gso) as ring,
    ):
        sink.bind(("127.0.0.1", 0))
        assert ring.send_batch([bytes(100)] * 8, sink.getsockname()).accepted == 8
        assert (ring.stats["trains"] > 0) == trains
        assert [len(sink.recv(200)) for _ in range(8)] == [100] * 8
