"""The data path in Python: replay window, padding, keypairs and their limits."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference.session import (
    REJECT_AFTER_MESSAGES,
    REKEY_AFTER_MESSAGES,
    WINDOW_SIZE,
    Keypair,
    Opened,
    ReplayWindow,
    Session,
    TransportDrop,
    padding_of,
    trim_inner,
)

from udpring.wireguard.constants import (
    REJECT_AFTER_TIME,
    SECOND,
)
from udpring.wireguard.events import DropReason, InstallKeypair

from .pair import ip_packet

KEY_A, KEY_B = bytes(range(32)), bytes(range(32, 64))


def keys(
    *, initiator: bool, local: int = 1, remote: int = 2, birth: int = 0, salt: int = 0
) -> InstallKeypair:
    first, second = bytes((salt,)) + KEY_A[1:], bytes((salt,)) + KEY_B[1:]
    if not initiator:
        first, second, local, remote = second, first, remote, local
    return InstallKeypair(0, first, second, local, remote, initiator, birth)


def sessions() -> tuple[Session, Session]:
    a, b = Session(), Session()
    assert a.install(keys(initiator=True)) == b.install(keys(initiator=False)) == []
    return a, b


def deliver(sender: Session, receiver: Session, packet: bytes, now: int = 0) -> Opened:
    message = sender.seal(packet, now)
    assert message is not None
    opened = receiver.open(message, now)
    assert isinstance(opened, Opened), opened
    return opened


# ---- replay window ----


def test_8128_behind_is_accepted_and_8129_is_not() -> None:
    for behind, accepted in ((WINDOW_SIZE - 1, True), (WINDOW_SIZE, True), (WINDOW_SIZE + 1, False)):
        window = ReplayWindow()
        assert window.update(20_000)
        assert window.check(20_000 - behind) is accepted
        assert window.update(20_000 - behind) is accepted
        assert not window.update(20_000 - behind)


def test_counters_at_the_limit() -> None:
    window = ReplayWindow()
    assert not window.update(REJECT_AFTER_MESSAGES)
    assert not window.update(2**64 - 1)
    assert window.update(REJECT_AFTER_MESSAGES - 1)
    assert not window.update(REJECT_AFTER_MESSAGES - 1)
    assert window.update(REJECT_AFTER_MESSAGES - 2)


def test_check_moves_nothing() -> None:
    window = ReplayWindow()
    assert window.check(100_000)
    assert window.update(0)
    assert window.update(1)


@given(st.lists(st.one_of(st.integers(0, 30_000), st.integers(0, 2**64 - 1)), max_size=200), st.randoms())
def test_window_is_the_set_of_what_was_seen(counters: list[int], rng: random.Random) -> None:
    counters += rng.choices(counters or [0], k=50)
    window, seen, greatest = ReplayWindow(), set[int](), 0
    for counter in counters:
        fresh = counter < REJECT_AFTER_MESSAGES and counter not in seen and greatest - counter <= WINDOW_SIZE
        assert window.check(counter) is fresh
        assert window.update(counter) is fresh
        if fresh:
            seen.add(counter)
            greatest = max(greatest, counter)


# ---- padding ----


@pytest.mark.parametrize(
    ("length", "mtu", "padded"),
    [
        (0, 1420, 0),  # a keepalive is not padded
        (1, 1420, 16),
        (16, 1420, 16),
        (17, 0, 32),
        (1419, 1420, 1420),  # never past the MTU
        (1420, 1420, 1420),
        (1297, 1299, 1299),
        (1421, 1420, 1421 + 15),  # the last piece of a packet that is cut later
        (2840, 1420, 2840),
        (2841, 1420, 2841 + 15),
        (2839, 1420, 2840),
    ],
)
def test_padding(length: int, mtu: int, padded: int) -> None:
    assert length + padding_of(length, mtu) == padded


@given(st.integers(0, 70_000), st.integers(0, 65_535))
def test_padding_is_the_kernels(length: int, mtu: int) -> None:
    """src/send.c, calculate_skb_padding, in Python."""
    last = length % mtu if mtu and length > mtu else length
    aligned = (last + 15) // 16 * 16
    expected = (min(mtu, aligned) if mtu else aligned) - last
    assert padding_of(length, mtu) == expected
    assert 0 <= padding_of(length, mtu) < 16


@pytest.mark.parametrize("extra", [0, 1, 15, 16, 100])
def test_inner_packets_are_trimmed_padded_or_not(extra: int) -> None:
    v4 = ip_packet(1, 61)
    v6 = bytes((0x60, 0, 0, 0)) + (21).to_bytes(2, "big") + bytes(34) + b"x" * 21
    assert trim_inner(v4 + bytes(extra)) == v4
    assert trim_inner(v6 + bytes(extra)) == v6


@pytest.mark.parametrize(
    "inner",
    [
        b"\x45",
        ip_packet(0, 60)[:59],  # longer than the plaintext
        b"\x45\0\0\x13" + bytes(16),  # shorter than its header
        bytes(60),  # version 0
        b"\x50" + bytes(59),
        b"\x60" + bytes(38),
        b"\x60\0\0\0\0\x01" + bytes(34),
    ],
)
def test_bad_inner_packets(inner: bytes) -> None:
    assert trim_inner(inner) is None


# ---- messages ----


def test_padded_on_the_wire_and_trimmed_again() -> None:
    a, b = sessions()
    message = a.seal(ip_packet(5, 61), 0)
    assert message is not None
    assert len(message) == 16 + 64 + 16
    assert b.open(message, 0) == Opened(ip_packet(5, 61), True, False)
    keepalive = a.seal(b"", 0)
    assert keepalive is not None
    assert len(keepalive) == 32
    assert b.open(keepalive, 0) == Opened(b"", False, False)


def test_replayed_data_is_refused() -> None:
    a, b = sessions()
    message = a.seal(ip_packet(), 0)
    assert message is not None
    assert isinstance(b.open(message, 0), Opened)
    assert b.open(message, 0) is TransportDrop.REPLAYED


def test_forged_tag_does_not_move_window() -> None:
    a, b = sessions()
    first = a.seal(ip_packet(1), 0)
    assert first is not None
    forged = first[:8] + (10**12).to_bytes(8, "little") + first[16:]
    assert b.open(forged, 0) is DropReason.UNAUTHENTICATED
    assert isinstance(b.open(first, 0), Opened)


@pytest.mark.parametrize("position", [4, 8, 16, 40, -1])
def test_a_changed_byte_is_refused(position: int) -> None:
    a, b = sessions()
    message = a.seal(ip_packet(), 0)
    assert message is not None
    changed = bytearray(message)
    changed[position] ^= 1
    expected = DropReason.UNKNOWN_INDEX if position == 4 else DropReason.UNAUTHENTICATED
    assert b.open(bytes(changed), 0) is expected
    assert isinstance(b.open(message, 0), Opened)


def test_bad_inner_packet_confirms_the_session() -> None:
    """The message is authentic anyway."""
    a, b = sessions()
    message = a.seal(b"no ip packet", 0)
    assert message is not None
    assert b.open(message, 0) == Opened(None, True, False)


def test_nonces_stop_before_they_end() -> None:
    a, b = sessions()
    assert a.current
    a.current.counter = REJECT_AFTER_MESSAGES - 1
    last = a.seal(ip_packet(), 0)
    assert last is not None
    assert last[8:16] == (REJECT_AFTER_MESSAGES - 1).to_bytes(8, "little")
    assert isinstance(b.open(last, 0), Opened)
    assert a.seal(ip_packet(), 0) is None
    assert a.current.counter == REJECT_AFTER_MESSAGES
    beyond = last[:8] + REJECT_AFTER_MESSAGES.to_bytes(8, "little") + last[16:]
    assert b.open(beyond, 0) is TransportDrop.KEY_EXPIRED


def test_nothing_is_sent_or_taken_after_180_seconds() -> None:
    a, b = sessions()
    message = a.seal(ip_packet(), REJECT_AFTER_TIME - 1)
    assert message is not None
    assert isinstance(b.open(message, REJECT_AFTER_TIME - 1), Opened)
    second = a.seal(ip_packet(), REJECT_AFTER_TIME - 1)
    assert second is not None
    assert b.open(second, REJECT_AFTER_TIME) is TransportDrop.KEY_EXPIRED
    assert a.seal(ip_packet(), REJECT_AFTER_TIME) is None


# ---- rekeying ----


def test_only_the_initiator_rekeys_by_time() -> None:
    a, b = sessions()
    deliver(a, b, ip_packet())
    assert not a.rekey_due(120 * SECOND - 1)
    assert a.rekey_due(120 * SECOND)
    assert not b.rekey_due(179 * SECOND)
    assert b.rekey_due(180 * SECOND)  # it has no key left


def test_both_rekey_by_count() -> None:
    a, b = sessions()
    deliver(a, b, ip_packet())
    for session in (a, b):
        assert session.current
        session.current.counter = REKEY_AFTER_MESSAGES
        assert not session.rekey_due(0)
        session.current.counter += 1
        assert session.rekey_due(0)


def test_the_initiator_asks_once_on_receive_after_165_seconds() -> None:
    a, b = sessions()
    deliver(a, b, ip_packet())
    assert not deliver(b, a, ip_packet(), 165 * SECOND - 1).rekey
    assert deliver(b, a, ip_packet(), 165 * SECOND).rekey
    assert not deliver(b, a, ip_packet(), 166 * SECOND).rekey
    assert not deliver(a, b, ip_packet(), 170 * SECOND).rekey  # the responder never does
    a.install(keys(initiator=True, local=11, birth=170 * SECOND))
    assert a.rekey_due(290 * SECOND)


# ---- keypairs ----


def test_the_responder_has_no_sending_key_before_data() -> None:
    a, b = sessions()
    assert b.seal(ip_packet(), 0) is None
    assert deliver(a, b, b"").confirmed
    assert b.seal(ip_packet(), 0) is not None
    assert not deliver(a, b, b"").confirmed


def test_rotation_frees_the_right_indices() -> None:
    a, b = Session(), Session()
    for number in range(1, 6):
        new = {"local": number, "remote": 100 + number, "salt": number}
        freed_a = a.install(keys(initiator=True, **new))
        freed_b = b.install(keys(initiator=False, **new))
        assert freed_a == ([number - 2] if number > 2 else [])
        # The new next replaces the previous at once. The current one becomes previous with the first data.
        assert freed_b == ([100 + number - 2] if number > 2 else [])
        deliver(a, b, ip_packet())
        assert (b.next, b.current and b.current.local_index) == (None, 100 + number)
    assert a.erase() == [4, 5]
    assert b.erase() == [104, 105]
    assert a.seal(b"", 0) is None


def test_late_packets_of_the_previous_key_are_still_taken() -> None:
    a, b = sessions()
    deliver(a, b, ip_packet())
    late = a.seal(ip_packet(7), 0)
    new = {"local": 11, "remote": 12, "salt": 9}
    a.install(keys(initiator=True, **new))
    b.install(keys(initiator=False, **new))
    deliver(a, b, ip_packet())
    assert late is not None
    assert b.open(late, 0) == Opened(ip_packet(7), False, False)


def test_an_unconfirmed_next_becomes_previous_under_our_own_initiation() -> None:
    """Initiations crossed, so the peer may use the session that it began."""
    a, b = Session(), Session()
    first, second = {"local": 1, "remote": 2, "salt": 1}, {"local": 3, "remote": 4, "salt": 2}
    b.install(keys(initiator=False, **first))
    a.install(keys(initiator=True, **first))
    b.install(keys(initiator=True, **second))
    assert b.previous
    assert b.previous.local_index == 2
    a.install(keys(initiator=False, **second))
    assert deliver(a, b, ip_packet()).packet
    assert deliver(b, a, ip_packet()).confirmed


def test_expired_keys_receive_but_do_not_send() -> None:
    a, b = sessions()
    deliver(a, b, ip_packet())
    b.expire()
    assert b.seal(ip_packet(), 0) is None
    assert b.rekey_due(0)
    assert deliver(a, b, ip_packet(3)).packet == ip_packet(3)


def test_nothing_secret_in_a_repr() -> None:
    install = keys(initiator=True)
    for shown in (repr(install), repr(Keypair(install))):
        assert install.send_key.hex() not in shown
        assert repr(install.send_key)[2:-1] not in shown
        assert "birth=0" in shown
