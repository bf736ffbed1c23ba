"""Valid and invalid UAPI requests from a seed, and the state of a node in a comparable form."""

from __future__ import annotations

import ipaddress
import random
import socket
from dataclasses import dataclass, field

from lab.node import Node

TAKEN_PORT = 7777
PRIVATE = [f"{n:02x}" * 32 for n in (0x18, 0x28, 0x38)]
PUBLIC = [f"{n:02x}" * 32 for n in (0x51, 0x52, 0x53, 0x54)]
NO_KEY = "00" * 32
BAD_KEYS = ["", "51", "51" * 31, "51" * 33, "zz" * 32, " " + "51" * 32, "0x" + "51" * 31]
NUMBERS = ["0", "1", "7", "25", "007", "65535", "41000", "41001"]
BAD_NUMBERS = [
    "",
    "-1",
    "+5",
    " 5",
    "5 ",
    "5_0",
    "0x5",
    "1e1",
    "5.0",
    "65536",
    "99999999999999999999",
    "\u0665",
]
PREFIXES = ["10.0.0.0/8", "10.1.2.3/16", "10.1.2.3/32", "0.0.0.0/0", "fd00::1/64", "::/0", "fd00::/128"]
PREFIXES += ["192.168.255.255/31", "2001:db8::ffff/33"]
BAD_PREFIXES = [
    "",
    "10.0.0.0",
    "10.0.0.0/",
    "10.0.0.0/33",
    "10.0.0/8",
    "::/129",
]
BAD_PREFIXES += [
    "10.0.0.0/8/8",
    "010.0.0.0/8",
    "fd00::1%lo/64",
    "[fd00::]/64",
    "10.0.0.0/-1",
    "a/8",
    " 10.0.0.0/8",
]
ENDPOINTS = ["192.0.2.1:1", "192.0.2.255:65535", "[2001:db8::1]:51820", "[2001:db8:0:0::1]:007"]
BAD_ENDPOINTS = [
    "",
    "192.0.2.1",
    ":1",
    "192.0.2.1:",
    "192.0.2.1:65536",
    "2001:db8::1:51820:",
    "example.org:1",
]
BAD_ENDPOINTS += ["[192.0.2.1]:1", "[2001:db8::1]", "192.0.2.1:+1", "192.0.2:1", "[]:1", "192.0.2.1:1 "]
BAD_LINES = ["", "x", "=", "=1", "bogus=1", "LISTEN_PORT=1", " fwmark=1", "public_key", "get=1", "set=1"]


def _one(rng: random.Random, good: list[str], bad: list[str], badness: float) -> str:
    return rng.choice(bad if rng.random() < badness else good)


def _device_line(rng: random.Random, bad: float) -> str:
    match rng.choice(["private_key", "private_key", "fwmark", "listen_port", "replace_peers", "other"]):
        case "private_key":
            return f"private_key={_one(rng, [*PRIVATE, NO_KEY], BAD_KEYS, bad)}"
        case "fwmark":
            return f"fwmark={_one(rng, [*NUMBERS, '4294967295'], [*BAD_NUMBERS, '4294967296'][2:], bad)}"
        case "listen_port":
            return f"listen_port={_one(rng, NUMBERS[5:], BAD_NUMBERS, bad)}"
        case "replace_peers":
            return f"replace_peers={_one(rng, ['true'], ['false', '', 'True', '1'], bad)}"
        case _:
            bad_lines = [*BAD_LINES[1:], "allowed_ip=10.0.0.0/8", "endpoint=192.0.2.1:1", "remove=true"]
            return rng.choice(bad_lines) if rng.random() < bad else "fwmark=3"


def _peer_line(rng: random.Random, bad: float) -> str:
    match rng.choice(
        [
            "allowed_ip",
            "allowed_ip",
            "endpoint",
            "keepalive",
            "psk",
            "replace",
            "update",
            "remove",
            "version",
            "other",
        ]
    ):
        case "allowed_ip":
            return f"allowed_ip={_one(rng, PREFIXES, BAD_PREFIXES, bad)}"
        case "endpoint":
            return f"endpoint={_one(rng, ENDPOINTS, BAD_ENDPOINTS, bad)}"
        case "keepalive":
            return f"persistent_keepalive_interval={_one(rng, NUMBERS, BAD_NUMBERS, bad)}"
        case "psk":
            return f"preshared_key={_one(rng, [*PUBLIC, NO_KEY], BAD_KEYS, bad)}"
        case "replace":
            return f"replace_allowed_ips={_one(rng, ['true'], ['false', ''], bad)}"
        case "update":
            return f"update_only={_one(rng, ['true'], ['false', 'yes'], bad)}"
        case "remove":
            return f"remove={_one(rng, ['true'], ['false', '0'], bad)}"
        case "version":
            return f"protocol_version={_one(rng, ['1'], ['0', '2', '', '01'], bad)}"
        case _:
            bad_lines = [*BAD_LINES[1:], "private_key=" + PRIVATE[0], "fwmark=1", "replace_peers=true"]
            return rng.choice(bad_lines) if rng.random() < bad else "allowed_ip=10.7.0.0/16"


def sequence(seed: int) -> list[str]:
    """Several set requests, each with its blank line. Half of the sequences contain mistakes."""
    rng = random.Random(seed)
    bad = 0.15 if seed % 2 else 0.0
    requests = []
    for _ in range(rng.randint(1, 4)):
        lines = [_device_line(rng, bad) for _ in range(rng.randint(0, 3))]
        for _ in range(rng.randint(0, 3)):
            lines.append(f"public_key={_one(rng, PUBLIC, BAD_KEYS, bad / 3)}")
            lines += [_peer_line(rng, bad) for _ in range(rng.randint(0, 5))]
        requests.append("".join(f"{line}\n" for line in ["set=1", *lines, ""]))
    return requests


@dataclass
class State:
    """The answer to a get, without the order of peers and prefixes, and without values that time and traffic
    change."""

    device: dict[str, str] = field(default_factory=dict)
    peers: dict[str, dict[str, str | set[str]]] = field(default_factory=dict)


def say(node: Node, request: str) -> str:
    """One request on its own connection, in one piece. Returns the answer up to its blank line or the end."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(30)
        sock.connect(str(node.uapi))
        sock.sendall(request.encode())
        answer = b""
        while not answer.endswith(b"\n\n"):
            try:
                more = sock.recv(65536)
            except ConnectionResetError:
                break  # closed with a part of the request unread
            if not more:
                break
            answer += more
    return answer.decode()


def errno_of(answer: str) -> int | None:
    """The number at the end of an answer. None: there was none."""
    lines = [line for line in answer.splitlines() if line.startswith("errno=")]
    return int(lines[-1][6:]) if lines else None


def state(node: Node) -> State:
    """The live state of a node, normalised."""
    answer = say(node, "get=1\n\n")
    assert errno_of(answer) == 0, answer
    found = State()
    peer: dict[str, str | set[str]] | None = None
    for line in answer.splitlines():
        key, _, value = line.partition("=")
        if key == "public_key":
            peer = found.peers.setdefault(value, {"allowed_ips": set()})
        elif key in ("tx_bytes", "rx_bytes", "errno", "") or key.startswith("last_handshake"):
            continue
        elif peer is None:
            found.device[key] = value
        elif key == "allowed_ip":
            allowed = peer["allowed_ips"]
            assert isinstance(allowed, set)
            allowed.add(str(ipaddress.ip_network(value)))
        else:
            peer[key] = value
    return found
