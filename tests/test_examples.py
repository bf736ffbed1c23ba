"""The examples run unchanged, with real traffic on loopback. Examples that need root report that they do."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import re
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Network, ip_address
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dns import DNS, DNSQR, DNSRR
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6

import udpring
from udpring.tunnel.keys import generate_private_key, public_key, to_base64

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
END_WAIT = 30.0
"""Seconds until a program must have ended."""


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, *(str(argument) for argument in arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)


class Server:
    """An example that serves until SIGINT. ``port``: from its first line. ``said``: its last output."""

    def __init__(self, name: str, *arguments: object) -> None:
        words = [sys.executable, str(EXAMPLES / name), *(str(argument) for argument in arguments)]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        first = self._process.stdout.readline()
        found = re.search(r"on port (\d+), tier ", first)
        if found is None:
            self._process.kill()
            pytest.fail(f"{first}{self._process.communicate()[1]}")
        self.port = int(found[1])
        self.said = ""

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            out, err = self._process.communicate(timeout=END_WAIT)
        finally:
            self._process.kill()
        assert (self._process.returncode, err) == (0, "")
        self.said = out.strip()


@contextlib.contextmanager
def serving(name: str, *arguments: object) -> Iterator[Server]:
    server = Server(name, *arguments)
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def asking(port: int) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(30.0)
        sock.connect(("127.0.0.1", port))
        yield sock


def load(name: str) -> ModuleType:
    """An example imported as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_datagrams() -> None:
    done = run(EXAMPLES / "datagrams.py", 640)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("640 datagrams, ")


def test_embed_node_says_what_is_wrong_with_its_file(tmp_path: Path) -> None:
    file = tmp_path / "wg0.conf"
    file.write_text("[Interface]\nPrivateKey = short\n")
    done = run(EXAMPLES / "embed_node.py", file)
    assert done.returncode == 1
    assert f"{file}:2:" in done.stderr
    assert "Traceback" not in done.stderr


def test_serve_peers_says_what_is_wrong_with_its_address() -> None:
    done = run(EXAMPLES / "serve_peers.py", "10.9.0.1/99")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "10.9.0.1/99" in done.stderr


def test_serve_peers_makes_peers_of_commands() -> None:
    module, key = load("serve_peers"), "6Ee8RqNDNzDXHr1AM+eZeQ5rkbVqgxNl6Pn4n0mAFXQ="
    made = module.peer(key, "10.9.0.2/32", "[fd00::1]:51820")
    assert made == udpring.PeerConfig(
        udpring.keys.from_base64(key),
        allowed_ips=(IPv4Network("10.9.0.2/32"),),
        endpoint=udpring.Endpoint("fd00::1", 51820),
    )
    assert module.peer(key, "10.9.0.2/32").endpoint is None
    assert key in module.in_words(udpring.PeerUp(key, ("192.0.2.1", 5)))
    assert "EventsLost" in module.in_words(udpring.EventsLost(3))


def test_sqlite_directory_registers_and_removes(tmp_path: Path) -> None:
    example, database = EXAMPLES / "sqlite_directory.py", tmp_path / "clients.sqlite"
    key = "6Ee8RqNDNzDXHr1AM+eZeQ5rkbVqgxNl6Pn4n0mAFXQ="

    def found() -> list[str]:
        with contextlib.closing(sqlite3.connect(database)) as connection:
            return [
                str(IPv4Network(row)) for row in connection.execute("SELECT network, length FROM prefixes")
            ]

    done = run(example, "add", database, key, "10.9.0.2/32")
    assert (done.returncode, done.stderr) == (0, "")
    assert found() == ["10.9.0.2/32"]
    done = run(example, "remove", database, key)
    assert (done.returncode, done.stderr) == (0, "")
    assert found() == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("add", "clients.sqlite", "short", "10.9.0.2/32"), "44 base64 characters"),
        (("add", "missing/clients.sqlite", "short"), "cannot be used as a directory"),
        (("serve", "clients.sqlite", "missing.conf"), "missing.conf: there is no such file"),
        (("remove",), "registers a client"),
        ((), "registers a client"),
    ],
)
def test_sqlite_directory_says_what_is_wrong(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    arguments = [tmp_path / word if "." in word and "/32" not in word else word for word in words]
    done = run(EXAMPLES / "sqlite_directory.py", *arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_node_page_shows_the_example() -> None:
    example = (EXAMPLES / "embed_node.py").read_text()
    body = example[example.index("import asyncio") : example.index("\n\nif __name__")]
    assert body.replace("import sys\n", "").strip() in (EXAMPLES.parent / "docs/node.md").read_text()


def test_the_echo_server_of_the_readme_answers(tmp_path: Path) -> None:
    """The program is unchanged except for its port, which the kernel chooses here."""
    pieces = re.findall(r"^```python\n(.*?)^```$", (EXAMPLES.parent / "README.md").read_text(), re.M | re.S)
    fixed = 'sock.bind(("127.0.0.1", 9999))\n'
    (piece,) = [piece for piece in pieces if fixed in piece]
    program = tmp_path / "echo.py"
    program.write_text(
        piece.replace(fixed, 'sock.bind(("127.0.0.1", 0))\nprint(sock.getsockname()[1], flush=True)\n')
    )
    with subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            with asking(int(server.stdout.readline())) as sock:
                sock.send(b"hello")
                assert sock.recv(65536) == b"hello"
        finally:
            server.kill()


KEYS = [generate_private_key() for _ in range(2)]


def tunnel_file(folder: Path, own: int, endpoint: str = "") -> Path:
    """The configuration of one of two nodes with an address of each family."""
    peer = 1 - own
    file = folder / f"wg{own}.conf"
    file.write_text(
        f"[Interface]\nPrivateKey = {to_base64(KEYS[own])}\n"
        f"Address = 10.9.0.{own + 1}/24, fd09::{own + 1}/64\n"
        f"[Peer]\nPublicKey = {to_base64(public_key(KEYS[peer]))}\n"
        f"AllowedIPs = 10.9.0.{peer + 1}/32, fd09::{peer + 1}/128\n{endpoint}"
    )
    file.chmod(0o600)
    return file


@pytest.mark.parametrize("address", ["10.9.0.1", "fd09::1"])
def test_packet_ping_is_answered(address: str, tmp_path: Path) -> None:
    with serving("packet_ping.py", tunnel_file(tmp_path, 0), "--answer") as server:
        file = tunnel_file(tmp_path, 1, f"Endpoint = 127.0.0.1:{server.port}\n")
        done = run(EXAMPLES / "packet_ping.py", file, address, "--count", 3)
        assert (done.returncode, done.stderr) == (0, "")
        assert re.fullmatch(rf"(?:{address}: number \d, [\d.]+ ms\n){{3}}3 of 3 answered\n", done.stdout)
    assert server.said == "3 answered"


def test_packets_page_reflects_packets(tmp_path: Path) -> None:
    """The program of the page, unchanged, against a node that gets back what it has sent."""
    pieces = re.findall(
        r"^```python\n(.*?)^```$", (EXAMPLES.parent / "docs/packets.md").read_text(), re.M | re.S
    )
    assert len(pieces) == 1
    names: dict[str, Any] = {}
    exec(pieces[0], names)
    example = load("packet_ping")

    async def exchange() -> None:
        config = udpring.Config.load(tunnel_file(tmp_path, 1))
        async with asyncio.timeout(END_WAIT), udpring.Node(config, attachment=udpring.Packets()) as node:
            endpoint = f"Endpoint = 127.0.0.1:{node.listen_port}\nPersistentKeepalive = 25\n"
            reflecting = asyncio.ensure_future(names["reflect"](str(tunnel_file(tmp_path, 0, endpoint))))
            while node.peers[0].endpoint is None:
                await asyncio.sleep(0.01)
            for near, far in (("10.9.0.2", "10.9.0.1"), ("fd09::2", "fd09::1")):
                addresses = ip_address(near), ip_address(far)
                await node.packets.send([example.echo(*addresses, example.REQUEST, b"1234")])
                back = (await node.packets.recv())[0].data
                assert example.read_echo(back, example.REQUEST) == (*addresses[::-1], b"1234")
            reflecting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reflecting

    asyncio.run(exchange())


@pytest.mark.parametrize(("source", "target"), [("10.9.0.1", "10.9.0.2"), ("fd09::1", "fd09::2")])
@pytest.mark.parametrize("size", [0, 1, 48])
def test_packet_ping_makes_valid_packets(source: str, target: str, size: int) -> None:
    """scapy computes every checksum anew and finds the same bytes."""
    example = load("packet_ping")
    rest = b"\1\2\3\4" + bytes(range(size))
    addresses = ip_address(source), ip_address(target)
    made = example.echo(*addresses, example.REQUEST, rest)
    kind = (IP, ICMP) if addresses[0].version == 4 else (IPv6, ICMPv6EchoRequest)
    read = kind[0](made)
    assert read.haslayer(kind[1])
    for layer, field in ((IP, "chksum"), (ICMP, "chksum"), (ICMPv6EchoRequest, "cksum")):
        if read.haslayer(layer):
            delattr(read[layer], field)
    assert bytes(read) == made
    assert example.read_echo(memoryview(made), example.REQUEST) == (*addresses, rest)
    assert example.read_echo(memoryview(made), example.REPLY) is None


@pytest.mark.parametrize("name", ["echo_server.py", "echo_async.py"])
def test_echo(name: str) -> None:
    with serving(name) as server:
        with asking(server.port) as sock:
            for payload in (b"one", b"", bytes(1472)):
                sock.send(payload)
                assert sock.recv(65536) == payload
        done = run(EXAMPLES / "echo_client.py", "127.0.0.1", server.port, 1000)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("1000 of 1000 returned, 0 not ours, ")
    assert server.said.startswith("1003 echoed")


def test_echo_client_says_what_is_missing() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        done = run(EXAMPLES / "echo_client.py", "127.0.0.1", silent.getsockname()[1], 10)
    assert done.returncode == 1
    assert done.stdout.startswith("0 of 10 returned")


def test_load_generator_keeps_its_rate() -> None:
    """It never exceeds its rate, however busy the machine is. Its report is right."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.1", 0))
        sink.setblocking(False)
        port = sink.getsockname()[1]
        words = ("--rate", 200, "--size", 300, "--seconds", 0.5)
        done = run(EXAMPLES / "load_generator.py", "127.0.0.1", port, *words)
        assert done.returncode == 0, done.stderr
        said = re.match(r"(\d+) datagrams in [\d.]+ s: [\d,]+ a second, tier \S+$", done.stdout)
        assert said is not None, done.stdout
        assert 1 <= int(said[1]) <= 101
        arrived = []
        with contextlib.suppress(BlockingIOError):
            while True:
                arrived.append(len(sink.recv(65536)))
        assert arrived == [300] * int(said[1])


def test_load_generator_counts_errors() -> None:
    words = ("--rate", 100, "--size", 65507, "--seconds", 0.1)
    done = run(EXAMPLES / "load_generator.py", "127.255.255.255", 9, *words)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\d+ not sent: Permission denied$", done.stdout, re.MULTILINE), done.stdout


dns = load("dns_responder")
ZONE = {
    dns.wire_name("www.example"): [bytes([192, 0, 2, n]) for n in (1, 2)],
    dns.wire_name("many.example"): [bytes([198, 51, 100, n]) for n in range(100)],
}


def ask(name: str, kind: str = "A") -> bytes:
    return bytes(DNS(id=0x1234, rd=1, qd=DNSQR(qname=name, qtype=kind)))


def answer(query: bytes) -> DNS:
    found = dns.respond(query, ZONE)
    assert found is not None
    return DNS(found)


def addresses(message: DNS) -> list[str]:
    return [record.rdata for record in message.an if isinstance(record, DNSRR)] if message.ancount else []


def test_dns_answers_what_it_knows() -> None:
    """scapy reads the answers. Each answer's name is a pointer to the question's (RFC 1035, 4.1.4)."""
    message = answer(ask("WWW.Example."))
    assert (message.id, message.qr, message.aa, message.rd, message.ra, message.rcode) == (
        0x1234,
        1,
        1,
        1,
        0,
        0,
    )
    assert message.qd[0].qname == b"WWW.Example."
    assert addresses(message) == ["192.0.2.1", "192.0.2.2"]
    assert all(record.rrname == b"WWW.Example." for record in message.an)
    raw = dns.respond(ask("www.example"), ZONE)
    assert raw.count(b"\x03www\x07example\0") == 1
    assert raw.count(b"\xc0\x0c\0\x01\0\x01") == 2


def test_dns_reports_unknown_names() -> None:
    assert (answer(ask("nobody.example")).rcode, answer(ask("www.example", "AAAA")).rcode) == (3, 0)
    assert answer(ask("www.example", "AAAA")).ancount == 0


def test_dns_marks_an_answer_that_does_not_fit() -> None:
    raw = dns.respond(ask("many.example"), ZONE)
    assert len(raw) <= 512
    message = DNS(raw)
    assert message.tc == 1
    assert len(addresses(message)) == message.ancount == 30


HEADER = struct.Struct("!HHHHHH")


@pytest.mark.parametrize(
    ("query", "code"),
    [
        (HEADER.pack(1, 0, 0, 0, 0, 0), 1),
        (HEADER.pack(1, 0, 2, 0, 0, 0) + b"\0\0\x01\0\x01" * 2, 1),
        (HEADER.pack(1, 0, 1, 0, 0, 0) + b"\x03ww", 1),
        (HEADER.pack(1, 0, 1, 0, 0, 0) + b"\x03www\0\0\x01", 1),
        (HEADER.pack(1, 0, 1, 0, 0, 0) + b"\xc0\x0c\0\x01\0\x01", 1),
        (HEADER.pack(1, 0, 1, 0, 0, 0) + (b"\x3f" + b"a" * 63) * 4 + b"\0\0\x01\0\x01", 1),
        (HEADER.pack(1, 0x2000, 1, 0, 0, 0), 4),
        (HEADER.pack(1, 0, 1, 0, 0, 0) + b"\0\0\x01\0\x03", 5),
    ],
    ids=["no question", "two", "cut name", "cut question", "pointer", "long name", "opcode", "class"],
)
def test_dns_says_what_is_wrong(query: bytes, code: int) -> None:
    found = dns.respond(query, ZONE)
    number, flags, *counts = HEADER.unpack_from(found)
    assert (number, flags & 0x8000, flags & 15) == (1, 0x8000, code)
    assert counts[1:] == [0, 0, 0]


@pytest.mark.parametrize("query", [b"", bytes(11), HEADER.pack(1, 0x8000, 1, 0, 0, 0)])
def test_dns_drops_what_must_not_be_answered(query: bytes) -> None:
    assert dns.respond(query, ZONE) is None


@given(
    st.one_of(
        st.binary(max_size=600),
        st.binary(max_size=300).map(lambda rest: HEADER.pack(1, 0, 1, 0, 0, 0) + rest),
    )
)
def test_dns_survives_anything(query: bytes) -> None:
    found = dns.respond(memoryview(query), ZONE)
    assert found is None or 12 <= len(found) <= 512


def test_dns_serves() -> None:
    table = ("www.example=192.0.2.7", "www.example=192.0.2.8")
    with serving("dns_responder.py", *table) as server, asking(server.port) as sock:
        for query in (b"junk", ask("www.example"), b"\x03" * 12, ask("nobody.example")):
            sock.send(query)
        answers = [DNS(sock.recv(65536)) for _ in range(3)]
    assert sorted(message.rcode for message in answers) == [0, 1, 3]
    assert [addresses(message) for message in answers if not message.rcode] == [["192.0.2.7", "192.0.2.8"]]
    assert server.said == "3 answered, 1 dropped, 0 not sent"


def test_dns_refuses_a_bad_table() -> None:
    done = run(EXAMPLES / "dns_responder.py", "www.example=nowhere")
    assert done.returncode == 2
    assert "'www.example=nowhere' is not NAME=ADDRESS" in done.stderr


def test_relay_separates_clients() -> None:
    """The server sees one address per client, and answers reach the right clients."""
    with contextlib.ExitStack() as closing:
        server = closing.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        server.bind(("127.0.0.1", 0))
        server.settimeout(30.0)
        pool = IPv4Network("127.78.0.0/29")
        words = ("127.0.0.1", server.getsockname()[1], "--pool", pool)
        relay = closing.enter_context(serving("relay.py", *words))
        clients = [closing.enter_context(asking(relay.port)) for _ in range(3)]
        for number, client in enumerate(clients):
            for part in range(4):
                client.send(b"%d %d" % (number, part))
        seen: dict[tuple[str, int], list[bytes]] = {}
        for _ in range(12):
            payload, source = server.recvfrom(65536)
            seen.setdefault(source, []).append(payload)
            server.sendto(b"re: " + payload, source)
        assert len(seen) == 3
        assert sorted(seen.values()) == [
            [b"%d %d" % (number, part) for part in range(4)] for number in range(3)
        ]
        assert all(host in map(str, pool.hosts()) for host, _ in seen)
        for number, client in enumerate(clients):
            assert [client.recv(65536) for _ in range(4)] == [
                b"re: %d %d" % (number, part) for part in range(4)
            ]
    assert relay.said == "12 to the server, 12 back, 3 clients"


def test_relay_forgets_the_client_that_was_silent_for_longest() -> None:
    table = load("relay").Clients(IPv4Network("127.78.0.0/30"))
    first, second, third = (("127.0.0.1", port) for port in (1, 2, 3))
    hosts = [table.host(first), table.host(second)]
    assert hosts == ["127.78.0.1", "127.78.0.2"]
    assert table.host(first) == hosts[0]
    assert table.host(third) == hosts[1]
    assert [table.client(host) for host in hosts] == [first, third]
    assert table.client("127.78.0.3") is None
    assert len(table) == 2


PROGRAMS = sorted(path.name for path in EXAMPLES.glob("*.py") if "__main__" in path.read_text())


FOREIGN = ("aiohttp", "h11", "httptools", "uvloop", "trio", "anyio", "prometheus_client")
"""Packages that a host with udpring may lack."""
ABSENT = "import runpy, sys; sys.modules.update(dict.fromkeys(sys.argv[2:])); sys.argv = sys.argv[1:2]; {run}"
RUN = "sys.path.insert(0, sys.argv[0].rpartition('/')[0]); runpy.run_path(sys.argv[0], run_name='__main__')"


@pytest.mark.parametrize(
    "name",
    [name for name in PROGRAMS if name.startswith("http") or "aiohttp" in (EXAMPLES / name).read_text()],
)
def test_missing_packages_are_named(name: str) -> None:
    done = run("-c", ABSENT.format(run=RUN), EXAMPLES / name, *FOREIGN)
    assert done.returncode == 1
    assert re.fullmatch(r"this example .* pip install \w+\n", done.stderr), done.stderr


def test_examples_import_no_other_packages() -> None:
    roots = {
        found
        for path in EXAMPLES.glob("*.py")
        for found in re.findall(r"^\s*(?:import|from) (\w+)", path.read_text(), re.MULTILINE)
    }
    examples = {path.stem for path in EXAMPLES.glob("*.py")}
    assert roots - examples - sys.stdlib_module_names - {"udpring"} <= set(FOREIGN)


@pytest.mark.parametrize("name", PROGRAMS)
def test_wrong_arguments_print_the_usage(name: str) -> None:
    """Or, where the words could be meant, a line that says what is wrong with them."""
    done = run(EXAMPLES / name, "no-such-word", "no-such-word")
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert name in done.stderr or len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_arguments_start_it_or_print_the_usage(name: str) -> None:
    words = [sys.executable, str(EXAMPLES / name)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            if process.stdout.readline():
                return  # it works: a server says where it listens
            said = process.stderr.read()
        finally:
            process.kill()
        assert process.wait() in (1, 2)
        assert "Traceback" not in said
        assert name in said
