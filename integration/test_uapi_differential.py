"""The same UAPI requests and `wg` commands for udpring and wireguard-go: the same errno, the same state.

``DIFFERENCES`` lists the intended differences with their reasons, and each is checked here. The generated
sequences contain none of them. Where wireguard-go and the kernel differ, udpring behaves like the kernel.
"""

from __future__ import annotations

import base64
import errno
import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from lab import GO, SUBJECT, Node, Rig
from lab.uapi_sequences import PUBLIC, TAKEN_PORT, errno_of, say, sequence, state

pytestmark = [
    pytest.mark.skipif(SUBJECT.name == GO.name, reason="it is compared with itself"),
    pytest.mark.xdist_group("uapi-differential"),
]

SEQUENCES = 500
A_TEST = 100
COMMANDS = 40
RESET = f"set=1\nprivate_key={'00' * 32}\nlisten_port=40000\nfwmark=0\nreplace_peers=true\n\n"


@pytest.fixture
def pair(rig: Rig) -> Iterator[tuple[Node, Node]]:
    """Both programs, up, each in its own namespace, so that both may use the same port."""
    topology = rig.topology()
    ours = rig.node(topology["a"], SUBJECT, inner=["10.100.0.1/24"])
    theirs = rig.node(topology["b"], GO, inner=["10.100.0.2/24"])
    for node in (ours, theirs):
        node.spawn()
        node.bring_up()
    taken = [node.space.socket("0.0.0.0", socket.SOCK_DGRAM, TAKEN_PORT) for node in (ours, theirs)]
    yield ours, theirs
    for sock in taken:
        sock.close()


@pytest.mark.parametrize("first", range(0, SEQUENCES, A_TEST))
def test_same_requests_have_the_same_outcome(pair: tuple[Node, Node], first: int) -> None:
    for seed in range(first, first + A_TEST):
        for node in pair:
            assert errno_of(say(node, RESET)) == 0
        for request in sequence(seed):
            ours, theirs = (errno_of(say(node, request)) for node in pair)
            assert ours == theirs, f"seed {seed}: {request!r}: errno {ours}, wireguard-go {theirs}"
            assert state(pair[0]) == state(pair[1]), f"seed {seed}: after {request!r}"


# ---- wg ----


def _words(rng: random.Random) -> list[str]:
    """The arguments of a `wg set`, some of them wrong."""
    key = base64.b64encode(bytes.fromhex(rng.choice(PUBLIC))).decode()
    words = rng.choice([[], ["fwmark", rng.choice(["0x7", "off", "9"])], ["listen-port", "41000"]])
    words += ["peer", rng.choice([key, key, key, key[:-2], "x"])]
    for _ in range(rng.randint(0, 3)):
        words += rng.choice(
            [
                [
                    "allowed-ips",
                    rng.choice(["10.0.0.0/8", "10.1.2.3/8,fd00::1/48", "", "10.0.0.0/33", "nowhere"]),
                ],
                ["endpoint", rng.choice(["192.0.2.1:9", "[2001:db8::1]:9", "192.0.2.1"])],
                ["persistent-keepalive", rng.choice(["0", "25", "off", "65535", "65536", "-1"])],
                ["preshared-key", "/dev/null"],
                ["remove"],
            ]
        )
    return words


def test_same_wg_commands_have_the_same_outcome(pair: tuple[Node, Node]) -> None:
    for node in pair:
        assert errno_of(say(node, RESET)) == 0
    for seed in range(COMMANDS):
        rng = random.Random(seed)
        words = _words(rng)
        done = [node.space.run("wg", "set", node.interface, *words, check=False) for node in pair]
        said = [
            (each.returncode, each.stderr.replace(node.interface, "IF"))
            for each, node in zip(done, pair, strict=True)
        ]
        assert said[0] == said[1], f"seed {seed}: wg set {words}"
        assert state(pair[0]) == state(pair[1]), f"seed {seed}: after wg set {words}"


# ---- intended differences ----


@dataclass(frozen=True)
class Difference:
    """A request, udpring's errno, those of wireguard-go's releases, and the reason."""

    request: str
    ours: int
    theirs: tuple[int, ...]
    why: str


INVALID = -errno.EINVAL
PEER = f"set=1\npublic_key={PUBLIC[0]}\n"
DIFFERENCES = {
    "cut short": Difference(
        "set=1\nfwmark=5\n",
        -errno.EPROTO,
        (0,),
        "a request without its blank line may lack what matters most",
    ),
    "scope that is no interface": Difference(
        f"{PEER}endpoint=[fe80::1%nowhere]:1\n\n",
        INVALID,
        (INVALID, 0),
        "nothing can be sent there",
    ),
    "scope of 33 bits": Difference(
        f"{PEER}endpoint=[fe80::1%4294967296]:1\n\n",
        INVALID,
        (INVALID, 0),
        "no interface has such a number",
    ),
    "port 0": Difference(
        f"{PEER}endpoint=192.0.2.1:0\n\n",
        INVALID,
        (0,),
        "nothing can be sent there",
    ),
    "leading zero": Difference(
        f"{PEER}allowed_ip=10.0.0.0/08\n\n",
        INVALID,
        (0, INVALID),
        "octal or decimal: newer releases of wireguard-go refuse it too",
    ),
    "sign": Difference(
        f"{PEER}allowed_ip=10.0.0.0/+8\n\n",
        INVALID,
        (0, INVALID),
        "a number is digits alone, as in newer releases of wireguard-go",
    ),
    "carriage return": Difference(
        "set=1\nfwmark=5\r\n\n",
        INVALID,
        (0,),
        "a number is digits alone",
    ),
    "cipher": Difference(
        f"{PEER}cipher=aes-256-gcm\n\n",
        0,
        (INVALID,),
        "an extension: docs/aes-256-gcm.md",
    ),
    "offload of a peer": Difference(
        f"{PEER}offload=off\n\n",
        0,
        (INVALID,),
        "an extension: docs/tiers.md",
    ),
    "removal of one prefix": Difference(
        f"{PEER}allowed_ip=-10.0.0.0/8\n\n",
        0,
        (INVALID, 0),
        "as the kernel and newer releases of wireguard-go have it",
    ),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_difference_is_as_the_table_has_it(pair: tuple[Node, Node], name: str) -> None:
    difference = DIFFERENCES[name]
    answers = []
    for node in pair:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(30)
            sock.connect(str(node.uapi))
            sock.sendall(difference.request.encode())
            sock.shutdown(socket.SHUT_WR)
            answers.append(errno_of(sock.recv(1000).decode()))
    ours, theirs = answers
    assert ours == difference.ours
    assert theirs in difference.theirs, difference.why


def test_taken_port_keeps_old_one_as_kernel(pair: tuple[Node, Node]) -> None:
    """wireguard-go then listens on no port."""
    for node in pair:
        assert errno_of(say(node, RESET)) == 0
        assert errno_of(say(node, f"set=1\nlisten_port={TAKEN_PORT}\n\n")) == -errno.EADDRINUSE
    assert state(pair[0]).device["listen_port"] == "40000"
    assert "listen_port" not in state(pair[1]).device
