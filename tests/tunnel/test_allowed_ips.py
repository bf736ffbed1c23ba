"""Allowed IPs: longest match over the whole trie, prefixes that move between peers. The oracle is
`ipaddress`."""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import random
import socket
from collections.abc import Iterator

import pytest
from core_internals import ffi, lib
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

NOBODY = lib.UDPRING_PEER_NONE
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


def order(network: Network) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen


class Trie:
    """The C trie in Python's types."""

    def __init__(self) -> None:
        self.trie = lib.trie_new()
        assert self.trie

    def close(self) -> None:
        lib.trie_free(self.trie)

    def apply(self, *commands: tuple[str, int, bool]) -> tuple[int, int]:
        """Each command: prefix with host bits, peer, whether to remove. Returns the code and the number
        done."""
        prefixes = ffi.new("struct udpring_prefix[]", len(commands))
        for prefix, (text, peer, remove) in zip(prefixes, commands, strict=True):
            interface = ipaddress.ip_interface(text)
            prefix.family = FAMILY[interface.version]
            ffi.memmove(prefix.ip, interface.packed, len(interface.packed))
            prefix.cidr, prefix.peer, prefix.remove = interface.network.prefixlen, peer, remove
        done = ffi.new("uint32_t *")
        return lib.trie_apply(self.trie, prefixes, len(commands), done), done[0]

    def insert(self, peer: int, *prefixes: str) -> None:
        assert self.apply(*((prefix, peer, False) for prefix in prefixes)) == (0, len(prefixes))

    def remove(self, peer: int, *prefixes: str) -> None:
        assert self.apply(*((prefix, peer, True) for prefix in prefixes)) == (0, len(prefixes))

    def remove_peer(self, peer: int) -> None:
        lib.trie_remove_peer(self.trie, peer)

    def lookup(self, address: str | Address) -> int | None:
        address = ipaddress.ip_address(address)
        found = lib.trie_lookup(self.trie, FAMILY[address.version], address.packed)
        return None if found == NOBODY else int(found)

    def list(self, peer: int, room: int = 100_000) -> list[str]:
        return [str(network) for network in self.networks(peer, room)]

    def networks(self, peer: int, room: int = 100_000) -> list[Network]:
        there = lib.trie_list(self.trie, peer, ffi.NULL, 0)
        prefixes = ffi.new("struct udpring_prefix[]", min(there, room) + 1)
        prefixes[min(there, room)].cidr = 0xAA
        assert lib.trie_list(self.trie, peer, prefixes, min(there, room)) == there
        assert prefixes[min(there, room)].cidr == 0xAA, "wrote past the room it was given"
        listed: list[Network] = []
        for prefix in prefixes[0 : min(there, room)]:
            assert (prefix.peer, prefix.remove) == (peer, 0)
            length = 4 if prefix.family == socket.AF_INET else 16
            assert not any(bytes(prefix.ip)[length:])
            listed.append(ipaddress.ip_network((bytes(prefix.ip)[:length], prefix.cidr)))
        return listed

    @property
    def nodes(self) -> int:
        return int(lib.trie_nodes(self.trie))

    @property
    def count(self) -> int:
        return int(lib.trie_count(self.trie))


@pytest.fixture
def trie() -> Iterator[Trie]:
    trie = Trie()
    yield trie
    trie.close()


def test_nothing_in_it(trie: Trie) -> None:
    assert trie.lookup("192.0.2.1") is None
    assert trie.lookup("2001:db8::1") is None
    assert trie.list(0) == []
    trie.remove(0, "192.0.2.0/24", "::/0")
    trie.remove_peer(0)
    assert trie.count == 0


def test_longest_match_of_ipv4(trie: Trie) -> None:
    """From the static cases of the kernel's self-test (WireGuard, selftest/allowedips.c)."""
    a, b, c, d, e, f, g, h = range(8)
    trie.insert(a, "192.168.4.0/24", "192.168.4.4/32")
    trie.insert(b, "192.168.4.4/32")
    trie.insert(c, "192.168.0.0/16")
    trie.insert(d, "192.95.5.64/27")
    trie.insert(c, "192.95.5.65/27")
    trie.insert(e, "0.0.0.0/0")
    trie.insert(g, "64.15.112.0/20")
    trie.insert(h, "64.15.123.211/25")
    trie.insert(
        a, "10.0.0.0/25", "10.0.0.128/25", "10.1.0.0/30", "10.1.0.4/30", "10.1.0.8/29", "10.1.0.16/29"
    )
    cases = {
        "192.168.4.20": a, "192.168.4.0": a, "192.168.4.4": b, "192.168.200.182": c, "192.95.5.68": c,
        "192.95.5.96": e, "64.15.116.26": g, "64.15.127.3": g, "64.15.123.128": h, "64.15.123.127": g,
        "10.0.0.52": a, "10.0.0.220": a, "10.1.0.2": a, "10.1.0.6": a, "10.1.0.10": a, "10.1.0.20": a,
        "10.1.0.24": e, "255.255.255.255": e, "0.0.0.0": e,
    }  # fmt: skip
    assert {address: trie.lookup(address) for address in cases} == cases
    trie.insert(f, "1.0.0.0/32", "64.0.0.0/32", "128.0.0.0/32", "192.0.0.0/32", "255.0.0.0/32")
    assert [trie.lookup(f"{first}.0.0.0") for first in (1, 64, 128, 192, 255)] == [f] * 5
    trie.remove_peer(f)
    assert [trie.lookup(f"{first}.0.0.0") for first in (1, 64, 128, 192, 255)] == [e] * 5
    trie.remove_peer(e)
    assert trie.lookup("1.0.0.0") is None
    assert trie.lookup("192.168.4.4") == b


def test_longest_match_of_ipv6(trie: Trie) -> None:
    a, b, c, d, e, f, g, h = range(8)
    trie.insert(d, "2607:5300:6006:6b00::/64")
    trie.insert(c, "2607:5300:6006:6b00::c05f:543/128")
    trie.insert(e, "::/0")
    trie.insert(f, "::/0")
    trie.insert(g, "2404:6800::/32")
    trie.insert(h, "2404:6800:4004:800:dead:beef:dead:beef/64")
    trie.insert(a, "2404:6800:4004:800:dead:beef:dead:beef/128")
    trie.insert(c, "2444:6800:40e4:800:deae:beef:def:beef/128")
    trie.insert(b, "2444:6800:f0e4:800:eeae:beef::/98")
    cases = {
        "2607:5300:6006:6b00::c05f:543": c, "2607:5300:6006:6b00::c02e:1ee": d, "2607:5300:6006:6b01::": f,
        "2404:6800:4004:806::1006": g, "2404:6800:4004:800:0:1234:0:5678": h, "2404:67ff:4004:806::": f,
        "2404:6801:4004:806:0:1234::": f, "2404:6800:4004:800:dead:beef:dead:beef": a,
        "2444:6800:40e4:800:deae:beef:def:beef": c, "2444:6800:f0e4:800:eeae:beef:1:beef": b,
        "2444:6800:f0e4:800:eeae:beef:4000:0": f,
    }  # fmt: skip
    assert {address: trie.lookup(address) for address in cases} == cases


def test_the_families_do_not_meet(trie: Trie) -> None:
    """`::/0` is no default route for IPv4, and addresses of both families with equal leading bits differ."""
    trie.insert(1, "::/0", "c000:200::/32")
    assert trie.lookup("192.0.2.0") is None
    trie.insert(2, "0.0.0.0/0")
    assert trie.lookup("192.0.2.0") == 2
    assert trie.lookup("c000:200::1") == 1
    assert lib.trie_lookup(trie.trie, socket.AF_UNIX, bytes(16)) == NOBODY


def test_overlapping_default_routes_and_hosts(trie: Trie) -> None:
    """The usual /1 pair over a default route, and single addresses at both ends of the space."""
    trie.insert(1, "0.0.0.0/0", "::/0")
    trie.insert(2, "0.0.0.0/1", "128.0.0.0/1", "::/1", "8000::/1")
    trie.insert(3, "0.0.0.0/32", "255.255.255.255/32", "::/128", ":".join(["ffff"] * 8) + "/128")
    for lowest, highest, ordinary in (
        ("0.0.0.0", "255.255.255.255", "9.9.9.9"),
        ("::", ":".join(["ffff"] * 8), "2001:db8::9"),
    ):
        assert [trie.lookup(address) for address in (lowest, highest, ordinary)] == [3, 3, 2]
    trie.remove(2, "0.0.0.0/1", "::/1")
    assert (trie.lookup("9.9.9.9"), trie.lookup("200.9.9.9"), trie.lookup("2001:db8::9")) == (1, 2, 1)


def test_a_prefix_moves_to_the_peer_that_asks_last(trie: Trie) -> None:
    trie.insert(1, "198.51.100.0/24", "2001:db8::/32")
    trie.insert(2, "198.51.100.0/24")
    assert (trie.lookup("198.51.100.7"), trie.count) == (2, 2)
    assert (trie.list(1), trie.list(2)) == (["2001:db8::/32"], ["198.51.100.0/24"])
    trie.remove_peer(1)
    assert trie.lookup("198.51.100.7") == 2


def test_only_its_owner_removes_a_prefix(trie: Trie) -> None:
    trie.insert(1, "198.51.100.0/24")
    trie.remove(2, "198.51.100.0/24")
    trie.remove(1, "198.51.100.0/25", "198.51.0.0/16")
    assert (trie.lookup("198.51.100.7"), trie.count) == (1, 1)
    trie.remove(1, "198.51.100.9/24")
    assert (trie.lookup("198.51.100.7"), trie.count) == (None, 0)


def test_branches_go_with_what_they_parted(trie: Trie) -> None:
    """Two prefixes need a third node where they diverge, unless one contains the other."""
    trie.insert(1, "10.0.0.0/8")
    assert trie.nodes == 1
    trie.insert(1, "10.1.0.0/16")
    assert trie.nodes == 2
    trie.insert(1, "10.2.0.0/16")
    assert trie.nodes == 4
    trie.insert(1, "10.0.0.0/14")
    assert trie.nodes == 4, "the branch becomes a prefix"
    trie.remove(1, "10.0.0.0/14")
    assert trie.nodes == 4, "and a branch again"
    trie.remove(1, "10.1.0.0/16")
    assert trie.nodes == 2
    trie.remove(1, "10.0.0.0/8")
    assert (trie.nodes, trie.lookup("10.2.0.1"), trie.lookup("10.3.0.1")) == (1, 1, None)
    trie.remove(1, "10.2.0.0/16")
    assert trie.nodes == 0


def test_host_bits_are_masked(trie: Trie) -> None:
    trie.insert(5, "10.1.2.3/8", "2001:db8:1:2:3:4:5:6/65", "2001:db8::ffff/64", "1.2.3.4/0")
    assert trie.list(5) == ["0.0.0.0/0", "10.0.0.0/8", "2001:db8::/64", "2001:db8:1:2::/65"]


def test_lists_are_in_order_and_cut_to_the_room(trie: Trie) -> None:
    prefixes = ["::/0", "10.0.0.0/8", "10.0.0.0/16", "9.0.0.0/8", "2001:db8::/32", "10.0.0.0/32", "0.0.0.0/0"]
    ordered = ["0.0.0.0/0", "9.0.0.0/8", "10.0.0.0/8", "10.0.0.0/16", "10.0.0.0/32", "::/0", "2001:db8::/32"]
    trie.insert(3, *prefixes)
    trie.insert(4, "10.0.0.0/12", "8.0.0.0/8", "2001::/16")
    for room in range(len(ordered) + 2):
        assert trie.list(3, room) == ordered[:room]


def test_bad_prefixes_are_refused_and_what_came_before_stays(trie: Trie) -> None:
    good = ("192.0.2.0/24", 1, False)
    prefixes = ffi.new("struct udpring_prefix[3]")
    for family, cidr, peer in (
        (socket.AF_INET, 33, 1),
        (socket.AF_INET6, 129, 1),
        (socket.AF_UNIX, 8, 1),
        (0, 0, 1),
        (socket.AF_INET, 8, NOBODY),
    ):
        prefixes[0] = prefixes[2] = {
            "family": socket.AF_INET, "cidr": 24, "peer": 1, "ip": [192, 0, 2, 0]
        }  # fmt: skip
        prefixes[1] = {"family": family, "cidr": cidr, "peer": peer}
        done = ffi.new("uint32_t *", 77)
        assert lib.trie_apply(trie.trie, prefixes, 3, done) == -errno.EINVAL
        assert (done[0], trie.count, trie.lookup("192.0.2.1")) == (1, 1, 1)
    assert trie.apply(good) == (0, 1)
    assert lib.trie_apply(trie.trie, ffi.NULL, 0, done) == 0


class MallocInfo(ctypes.Structure):
    """struct mallinfo2 of mallinfo(3)."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    ]


def allocated_bytes() -> int:
    """Bytes that malloc has handed out and not got back, on the heap and by mmap."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = MallocInfo
    info = mallinfo2()
    return int(info.uordblks + info.hblkhd)


def test_130000_prefixes_in_and_out(trie: Trie) -> None:
    """One command each way. A walk over all prefixes for each would exceed the time limit."""
    chance = random.Random(130_000)
    count = 130_000
    prefixes = ffi.new("struct udpring_prefix[]", count)
    model: dict[tuple[bytes, int], int] = {}
    for position in range(count):
        address, cidr = chance.getrandbits(32), chance.randint(12, 32)
        packed = (address >> (32 - cidr) << (32 - cidr)).to_bytes(4, "big")
        prefix = prefixes[position]
        prefix.family, prefix.cidr, prefix.peer = socket.AF_INET, cidr, position % 1000
        ffi.memmove(prefix.ip, packed, 4)
        model[packed, cidr] = position % 1000
    done = ffi.new("uint32_t *")
    assert lib.trie_apply(trie.trie, prefixes, count, done) == 0
    assert (done[0], trie.count) == (count, len(model))
    for _ in range(2000):
        address = chance.getrandbits(32)
        candidates = ((address >> (32 - n) << (32 - n), n) for n in range(32, 11, -1))
        expected = next(
            (model[key] for bits, n in candidates if (key := (bits.to_bytes(4, "big"), n)) in model), None
        )
        assert trie.lookup(str(ipaddress.IPv4Address(address))) == expected
    assert sum(len(trie.networks(peer)) for peer in range(0, 1000, 100)) == sum(
        peer % 100 == 0 for peer in model.values()
    )
    for position in range(count):
        prefixes[position].remove = 1
    assert lib.trie_apply(trie.trie, prefixes, count, done) == 0
    for peer in range(1000):
        trie.remove_peer(peer)
    assert (done[0], trie.count) == (count, 0)


def test_large_trie_follows_every_change(trie: Trie) -> None:
    """The search in a large trie begins at a table by the first 16 bits. Prefixes of all lengths come, move
    and go, and the trie shrinks and grows across the size from which it has the table."""
    chance = random.Random(16)
    model: dict[tuple[int, int], int] = {}

    def some_address() -> int:
        return chance.choice((0x0A000000, 0x0A000000, 0xC0000000)) | chance.getrandbits(24)

    def change(remove: bool) -> int:
        cidr = chance.choice((chance.randint(0, 18), chance.randint(14, 32), chance.randint(20, 32)))
        address = some_address()
        if remove:
            address, cidr = chance.choice(list(model))
            address <<= 32 - cidr
        key, peer = (address >> (32 - cidr), cidr), model.get((address >> (32 - cidr), cidr))
        if remove and peer is not None:
            trie.remove(peer, f"{ipaddress.IPv4Address(address)}/{cidr}")
            del model[key]
        else:
            model[key] = chance.randrange(40)
            trie.insert(model[key], f"{ipaddress.IPv4Address(address)}/{cidr}")
        return address

    def expected(address: int) -> int | None:
        keys = ((address >> (32 - cidr), cidr) for cidr in range(32, -1, -1))
        return next((model[key] for key in keys if key in model), None)

    for size in (1500, 900, 1300, 0, 1100):
        while len(model) != size:
            changed = change(remove=len(model) > size), change(remove=chance.random() < 0.5 and bool(model))
            for address in (*changed, some_address()):
                assert trie.lookup(ipaddress.IPv4Address(address)) == expected(address)
            if chance.random() < 0.002:
                gone = chance.randrange(40)
                trie.remove_peer(gone)
                model = {key: peer for key, peer in model.items() if peer != gone}
            if size == 0 and len(model) < 40:
                for peer in range(40):
                    trie.remove_peer(peer)
                model = {}
        assert trie.count == len(model)


def test_memory_is_given_back(trie: Trie) -> None:
    """An empty trie holds no memory, and filling and emptying repeatedly does not leak."""
    array = ffi.new("struct udpring_prefix[]", 20_000)
    for number, prefix in enumerate(array):
        prefix.family, prefix.cidr, prefix.peer = socket.AF_INET, 27, number % 50
        ffi.memmove(prefix.ip, ((10 << 19 | number) << 5).to_bytes(4, "big"), 4)
    done = ffi.new("uint32_t *")
    before = allocated_bytes()
    for _ in range(10):
        assert lib.trie_apply(trie.trie, array, len(array), done) == 0
        assert allocated_bytes() - before < 8 << 20
        for peer in range(50):
            trie.remove_peer(peer)
        assert trie.count == 0
    assert allocated_bytes() - before < 64 << 10


# Few distinct leading bits, so that prefixes nest, share branches and coincide. And the whole space.
V4 = st.sampled_from([0, 0x0A000000, 0x0A000001, 0x0A800000, 0x80000000, 0xFFFFFFFF]) | st.integers(
    0, 2**32 - 1
)
V6 = st.one_of(
    st.sampled_from([0, 1, 0x20010DB8 << 96, 0x20010DB8 << 96 | 1 << 63, 1 << 64, 1 << 127, 2**128 - 1]),
    st.integers(0, 2**128 - 1),
)
CIDR4 = st.sampled_from([0, 1, 8, 24, 31, 32]) | st.integers(0, 32)
CIDR6 = st.sampled_from([0, 1, 63, 64, 65, 127, 128]) | st.integers(0, 128)
ADDRESSES = st.builds(ipaddress.IPv4Address, V4) | st.builds(ipaddress.IPv6Address, V6)
INTERFACES = st.one_of(
    st.builds(lambda ip, cidr: ipaddress.IPv4Interface((ip, cidr)), V4, CIDR4),
    st.builds(lambda ip, cidr: ipaddress.IPv6Interface((ip, cidr)), V6, CIDR6),
)
# Ids include some that collide in a hash table.
PEERS = st.sampled_from([0, 1, 2, 16, 32, 1 << 16, 1 << 31, NOBODY - 1])


class AllowedIps(RuleBasedStateMachine):
    @initialize()
    def open(self) -> None:
        self.trie = Trie()
        self.model: dict[Network, int] = {}

    def teardown(self) -> None:
        if hasattr(self, "trie"):
            self.trie.close()

    def expected(self, address: Address) -> int | None:
        matches = [network for network in self.model if address in network]
        return self.model[max(matches, key=lambda network: network.prefixlen)] if matches else None

    @rule(peer=PEERS, interfaces=st.lists(INTERFACES, min_size=1, max_size=8))
    def insert(self, peer: int, interfaces: list[ipaddress.IPv4Interface | ipaddress.IPv6Interface]) -> None:
        self.trie.insert(peer, *(str(interface) for interface in interfaces))
        self.model.update((interface.network, peer) for interface in interfaces)

    @precondition(lambda self: self.model)
    @rule(peer=PEERS, data=st.data())
    def move(self, peer: int, data: st.DataObject) -> None:
        network = data.draw(st.sampled_from(sorted(self.model, key=order)))
        self.trie.insert(peer, str(network))
        self.model[network] = peer

    @precondition(lambda self: self.model)
    @rule(data=st.data(), own=st.booleans(), peer=PEERS)
    def remove(self, data: st.DataObject, own: bool, peer: int) -> None:
        network = data.draw(st.sampled_from(sorted(self.model, key=order)))
        peer = self.model[network] if own else peer
        self.trie.remove(peer, str(network))
        if self.model[network] == peer:
            del self.model[network]

    @rule(peer=PEERS, interface=INTERFACES)
    def remove_any(self, peer: int, interface: ipaddress.IPv4Interface | ipaddress.IPv6Interface) -> None:
        self.trie.remove(peer, str(interface))
        if self.model.get(interface.network) == peer:
            del self.model[interface.network]

    @rule(peer=PEERS)
    def remove_peer(self, peer: int) -> None:
        self.trie.remove_peer(peer)
        self.model = {network: owner for network, owner in self.model.items() if owner != peer}

    @rule(address=ADDRESSES)
    def look_up(self, address: Address) -> None:
        assert self.trie.lookup(address) == self.expected(address)

    @rule(peer=PEERS, room=st.integers(0, 6))
    def list_some(self, peer: int, room: int) -> None:
        owned = sorted((network for network, owner in self.model.items() if owner == peer), key=order)
        assert self.trie.networks(peer, room) == owned[:room]

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "trie"):
            return
        assert self.trie.count == len(self.model)
        families = len({network.version for network in self.model})
        assert len(self.model) <= self.trie.nodes <= 2 * len(self.model) - families, (
            "a branch has two children"
        )
        for peer in set(self.model.values()):
            owned = sorted((network for network, owner in self.model.items() if owner == peer), key=order)
            assert self.trie.networks(peer) == owned
        for network in self.model:
            for address in (network[0], network[-1]):
                assert self.trie.lookup(address) == self.expected(address)


TestAllowedIps = AllowedIps.TestCase
TestAllowedIps.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
