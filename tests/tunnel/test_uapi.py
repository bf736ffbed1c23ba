"""The UAPI codec: each rule of the wire format, round trips, and garbage."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.uapi_answers import format_get

from udpring.tunnel import uapi
from udpring.tunnel.uapi import (
    AllowedIp,
    DeviceInfo,
    EndRequest,
    GetRequest,
    Operation,
    PeerBegin,
    PeerInfo,
    PeerRemove,
    PeerUpdateOnly,
    ProtocolVersion,
    ReplaceAllowedIps,
    ReplacePeers,
    ReportRequest,
    RequestParser,
    ResponseParser,
    SetCipher,
    SetDeviceOffload,
    SetEndpoint,
    SetFwmark,
    SetKeepalive,
    SetListenPort,
    SetOffload,
    SetPaused,
    SetPresharedKey,
    SetPrivateKey,
    UapiProtocolError,
)
from udpring.wireguard.cipher import Cipher

KEY = bytes(range(1, 33))
HEX = KEY.hex().encode()


def parse(data: bytes) -> list[Operation]:
    return list(RequestParser().feed(data))


def set_of(*lines: bytes) -> bytes:
    return b"set=1\n" + b"".join(line + b"\n" for line in lines) + b"\n"


def end_of(*lines: bytes) -> EndRequest:
    last = parse(set_of(*lines))[-1]
    assert isinstance(last, EndRequest)
    return last


# --- requests ---


def test_get() -> None:
    assert parse(b"get=1\n\n") == [GetRequest(), EndRequest("get")]
    names: tuple[Literal["stats", "reload"], ...] = ("stats", "reload")
    for request in names:
        assert parse(f"{request}=1\n\n".encode()) == [ReportRequest(request), EndRequest(request)]


def test_every_setting() -> None:
    request = set_of(
        b"private_key=" + HEX,
        b"listen_port=51820",
        b"fwmark=4294967295",
        b"replace_peers=true",
        b"public_key=" + HEX.upper(),
        b"update_only=true",
        b"preshared_key=" + HEX,
        b"endpoint=1.2.3.4:5",
        b"endpoint=[fd00::1]:65535",
        b"endpoint=[fe80::1%eth0]:1",
        b"endpoint=[::ffff:1.2.3.4]:5",
        b"persistent_keepalive_interval=25",
        b"replace_allowed_ips=true",
        b"allowed_ip=10.1.2.3/8",
        b"allowed_ip=-fd00::1/64",
        b"allowed_ip=0.0.0.0/0",
        b"protocol_version=1",
        b"cipher=aes-256-gcm",
        b"cipher=chacha20-poly1305",
        b"offload=off",
        b"public_key=" + b"00" * 32,
        b"remove=true",
    )
    v6 = socket.inet_pton(socket.AF_INET6, "fd00::1")
    link_local = socket.inet_pton(socket.AF_INET6, "fe80::1")
    assert parse(request) == [
        SetPrivateKey(KEY),
        SetListenPort(51820),
        SetFwmark(0xFFFFFFFF),
        ReplacePeers(),
        PeerBegin(KEY),
        PeerUpdateOnly(),
        SetPresharedKey(KEY),
        SetEndpoint(bytes([1, 2, 3, 4]), 5),
        SetEndpoint(v6, 65535),
        SetEndpoint(link_local, 1, "eth0"),
        SetEndpoint(bytes([1, 2, 3, 4]), 5),
        SetKeepalive(25),
        ReplaceAllowedIps(),
        AllowedIp(socket.AF_INET, bytes([10, 0, 0, 0]), 8),
        AllowedIp(socket.AF_INET6, v6[:8] + bytes(8), 64, remove=True),
        AllowedIp(socket.AF_INET, bytes(4), 0),
        ProtocolVersion(1),
        SetCipher(Cipher.AES_256_GCM),
        SetCipher(Cipher.CHACHA20_POLY1305),
        SetOffload(False),
        PeerBegin(bytes(32)),
        PeerRemove(),
        EndRequest("set"),
    ]


def test_a_zero_key_removes() -> None:
    zero = b"0" * 64
    assert parse(set_of(b"private_key=" + zero))[0] == SetPrivateKey(None)
    assert parse(set_of(b"public_key=" + HEX, b"preshared_key=" + zero))[1] == SetPresharedKey(None)


def test_an_empty_set_is_good() -> None:
    assert parse(b"set=1\n\n") == [EndRequest("set")]


def test_several_requests_on_one_connection_after_good_and_bad() -> None:
    data = b"get=1\n\n" + set_of(b"fwmark=x", b"listen_port=1") + set_of(b"listen_port=2") + b"get=1\n\n"
    kinds = [(type(op).__name__, getattr(op, "errno", None)) for op in parse(data)]
    assert kinds == [
        ("GetRequest", None),
        ("EndRequest", 0),
        ("EndRequest", errno.EINVAL),
        ("SetListenPort", None),
        ("EndRequest", 0),
        ("GetRequest", None),
        ("EndRequest", 0),
    ]


def test_a_probe_that_closes_at_once_is_nothing() -> None:
    parser = RequestParser()
    assert list(parser.feed(b"")) == []
    assert list(parser.close()) == []


PEER_BAD = [
    b"nothing=1",
    b"listen_port=1",
    b"private_key=" + HEX,
    b"fwmark=1",
    b"replace_peers=true",
    b"remove=1",
    b"remove=True",
    b"remove=",
    b"update_only=false",
    b"replace_allowed_ips=yes",
    b"preshared_key=" + HEX[:-1],
    b"preshared_key=",
    b"public_key=" + HEX + b"0",
    b"public_key=" + b"zz" * 32,
    b"persistent_keepalive_interval=65536",
    b"persistent_keepalive_interval=off",
    b"persistent_keepalive_interval=-1",
    b"persistent_keepalive_interval=1_0",
    b"persistent_keepalive_interval=" + b"9" * 3000,
    b"protocol_version=2",
    b"cipher=",
    b"cipher=AES-256-GCM",
    b"cipher=aes-128-gcm",
    b"offload=",
    b"offload=true",
    b"offload=Off",
    b"protocol_version=",
    b"endpoint=",
    b"endpoint=1.2.3.4",
    b"endpoint=1.2.3.4:",
    b"endpoint=1.2.3.4:0",
    b"endpoint=1.2.3.4:65536",
    b"endpoint=1.2.3:5",
    b"endpoint=01.2.3.4:5",
    b"endpoint=[1.2.3.4]:5",
    b"endpoint=fd00::1:5",
    b"endpoint=[fd00::1:5",
    b"endpoint=[fd00::1%]:5",
    b"endpoint=[fd00::1%a b]:5",
    b"endpoint=1.2.3.4%eth0:5",
    b"endpoint=[fd00::g]:5",
    b"endpoint=host.example:5",
    b"endpoint=:5",
    b"endpoint=[]:5",
    b"endpoint=[fd00::1]:5\0",
    b"allowed_ip=10.0.0.0",
    b"allowed_ip=10.0.0.0/",
    b"allowed_ip=10.0.0.0/33",
    b"allowed_ip=fd00::/129",
    b"allowed_ip=10.0.0.0/-1",
    b"allowed_ip=--10.0.0.0/8",
    b"allowed_ip=+10.0.0.0/8",
    b"allowed_ip=10.0.0.0/255.0.0.0",
    b"allowed_ip=fe80::1%eth0/64",
    b"allowed_ip=",
    b"allowed_ip=10.0.0.0/8 ",
    "allowed_ip=10.0.0.0/\u0668".encode(),
    b"\xff=\xff",
    b"=",
]
DEVICE_BAD = [
    b"nothing=1",
    b"remove=true",
    b"allowed_ip=10.0.0.0/8",
    b"endpoint=1.2.3.4:5",
    b"private_key=",
    b"private_key=" + HEX + b" ",
    b"listen_port=65536",
    b"listen_port=",
    b"listen_port= 1",
    b"fwmark=4294967296",
    b"fwmark=0x1",
    b"fwmark=off",
    b"replace_peers=1",
    b"x" * (uapi.MAX_LINE + 1),
]


@pytest.mark.parametrize("line", PEER_BAD)
def test_bad_peer_line_keeps_earlier_lines(line: bytes) -> None:
    """It is EINVAL."""
    got = parse(set_of(b"public_key=" + HEX, b"protocol_version=1", line, b"remove=true"))
    assert got[:2] == [PeerBegin(KEY), ProtocolVersion(1)]
    (end,) = got[2:]
    assert isinstance(end, EndRequest)
    assert end.errno == errno.EINVAL
    assert "line 4 of set" in end.message
    assert HEX.decode()[:20] not in end.message


@pytest.mark.parametrize("line", DEVICE_BAD)
def test_bad_device_line_ends_the_request(line: bytes) -> None:
    """It is EINVAL, and no later line counts."""
    got = parse(set_of(b"listen_port=1", line, b"listen_port=2", b"public_key=" + HEX, b"remove=true"))
    assert [type(op) for op in got] == [SetListenPort, EndRequest]
    assert isinstance(got[1], EndRequest)
    assert got[1].errno == errno.EINVAL


def test_a_line_without_an_equals_sign_is_eproto() -> None:
    assert end_of(b"listen_port").errno == errno.EPROTO


def test_get_with_setting_is_refused() -> None:
    """With a positive errno."""
    (end,) = parse(b"get=1\nlisten_port=1\n\n")
    assert isinstance(end, EndRequest)
    assert uapi.format_status(end) == b"errno=22\n\n"


def test_status_lines() -> None:
    assert uapi.format_status(EndRequest("set")) == b"errno=0\n\n"
    assert uapi.format_status(EndRequest("get")) == b"errno=0\n\n"
    assert uapi.format_status(EndRequest("set", errno.EINVAL)) == b"errno=-22\n\n"


def test_failed_operation_ends_request_with_errno() -> None:
    parser = RequestParser()
    seen = []
    for operation in parser.feed(set_of(b"listen_port=1", b"fwmark=1", b"fwmark=x") + b"get=1\n\n"):
        seen.append(operation)
        if isinstance(operation, SetListenPort):
            parser.fail(errno.EADDRINUSE, "port 1 is taken")
    assert seen == [
        SetListenPort(1),
        EndRequest("set", errno.EADDRINUSE, "port 1 is taken"),
        GetRequest(),
        EndRequest("get"),
    ]


@pytest.mark.parametrize(
    "line", [b"get=2", b"put=1", b"get", b"set=1 ", b"\xff\xfe", b"GET / HTTP/1.1\r", b"y" * 9000]
)
def test_what_opens_no_request_breaks_the_connection(line: bytes) -> None:
    parser = RequestParser()
    with pytest.raises(UapiProtocolError):
        list(parser.feed(line + b"\n"))
    with pytest.raises(UapiProtocolError):
        list(parser.feed(b"get=1\n\n"))
    assert list(parser.close()) == []


def test_a_request_cut_short_is_eproto() -> None:
    parser = RequestParser()
    assert list(parser.feed(b"set=1\nlisten_port=1\nlisten_po")) == [SetListenPort(1)]
    (end,) = parser.close()
    assert isinstance(end, EndRequest)
    assert (end.request, end.errno) == ("set", errno.EPROTO)


def test_a_line_without_an_end_holds_no_memory() -> None:
    parser = RequestParser()
    assert list(parser.feed(b"set=1\n")) == []
    for _ in range(200):
        assert list(parser.feed(b"z" * 65536)) == []
        assert len(parser._lines._buffer) <= uapi.MAX_LINE + 65536
    (end,) = parser.feed(b"\nlisten_port=1\n\n")
    assert isinstance(end, EndRequest)
    assert end.errno == errno.EINVAL


def test_operations_come_before_later_lines_are_looked_at() -> None:
    operations = RequestParser().feed(set_of(b"listen_port=1", b"bad=1"))
    assert next(operations) == SetListenPort(1)


def test_130560_prefixes_in_one_set() -> None:
    count = 130_560
    lines = [b"public_key=" + HEX]
    lines += [b"allowed_ip=%d.%d.%d.0/24" % (1 + (i >> 16), i >> 8 & 255, i & 255) for i in range(count)]
    data = set_of(*lines)
    parser = RequestParser()
    seen = 0
    end = None
    for start in range(0, len(data), 4096):
        for operation in parser.feed(data[start : start + 4096]):
            seen += isinstance(operation, AllowedIp)
            end = operation
    assert (seen, end) == (count, EndRequest("set"))


# --- round trips ---

keys = st.binary(min_size=32, max_size=32)
ports = st.integers(1, 0xFFFF)


def is_v4_mapped(ip: bytes) -> bool:
    return ip[:12] == bytes(10) + b"\xff\xff"


v6 = st.binary(min_size=16, max_size=16).filter(lambda ip: not is_v4_mapped(ip))
v4 = st.binary(min_size=4, max_size=4)


@st.composite
def prefixes(draw: st.DrawFn) -> tuple[bytes, int]:
    ip = draw(st.one_of(v4, st.binary(min_size=16, max_size=16)))
    width = len(ip) * 8
    cidr = draw(st.integers(0, width))
    number = int.from_bytes(ip, "big") >> (width - cidr) << (width - cidr)
    return number.to_bytes(len(ip), "big"), cidr


def allowed(prefix: tuple[bytes, int], remove: bool) -> AllowedIp:
    family = socket.AF_INET if len(prefix[0]) == 4 else socket.AF_INET6
    return AllowedIp(family, *prefix, remove)


nonzero = keys.filter(any)
endpoints = st.one_of(
    st.tuples(v4, ports, st.just("")), st.tuples(v6, ports, st.sampled_from(["", "eth0", "3"]))
)
device_operations = st.one_of(
    st.builds(SetPrivateKey, st.none() | nonzero),
    st.builds(SetListenPort, st.integers(0, 0xFFFF)),
    st.builds(SetFwmark, st.integers(0, 0xFFFFFFFF)),
    st.builds(SetPaused, st.booleans()),
    st.builds(SetDeviceOffload, st.sampled_from([True, False, None])),
    st.just(ReplacePeers()),
)
peer_operations = st.one_of(
    st.just(PeerRemove()),
    st.just(PeerUpdateOnly()),
    st.just(ReplaceAllowedIps()),
    st.just(ProtocolVersion(1)),
    st.builds(SetPresharedKey, st.none() | nonzero),
    st.builds(lambda endpoint: SetEndpoint(*endpoint), endpoints),
    st.builds(SetKeepalive, st.integers(0, 0xFFFF)),
    st.builds(allowed, prefixes(), st.booleans()),
    st.builds(PeerBegin, keys),
    st.builds(SetCipher, st.sampled_from(Cipher)),
    st.builds(SetOffload, st.sampled_from([True, False, None])),
)


@given(st.lists(device_operations), keys, st.lists(peer_operations), st.lists(st.integers(1, 40)))
def test_set_requests_round_trip_however_they_are_cut(
    device: list[uapi.SetOperation], key: bytes, peer: list[uapi.SetOperation], cuts: list[int]
) -> None:
    operations: list[uapi.SetOperation] = [*device, PeerBegin(key), *peer]
    data = b"".join(uapi.format_set(operations))
    parser = RequestParser()
    got: list[Operation] = []
    for size in cuts:
        got += parser.feed(data[:size])
        data = data[size:]
    got += parser.feed(data)
    assert got == [*operations, EndRequest("set")]


peers = st.builds(
    PeerInfo,
    keys,
    st.none() | nonzero,
    st.none() | endpoints,
    st.integers(0, 2**62),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(0, 0xFFFF),
    st.lists(prefixes(), max_size=4).map(tuple),
    st.sampled_from(Cipher),
    st.sampled_from([True, False, None]),
)
devices = st.builds(
    DeviceInfo,
    st.none() | nonzero,
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFFFFFFFF),
    st.lists(peers, max_size=4).map(tuple),
    st.booleans(),
    st.sampled_from([True, False, None]),
)


def answer(data: bytes) -> ResponseParser:
    parser = ResponseParser()
    parser.feed(data)
    return parser


@given(devices)
def test_get_answers_round_trip(device: DeviceInfo) -> None:
    lines = list(format_get(device))
    assert all(line.endswith(b"\n") and b"\n\n" not in line for line in lines)
    got = answer(b"".join(lines) + uapi.format_status(EndRequest("get")))
    assert got.done
    assert got.errno == 0
    assert got.state == device


def test_the_text_of_a_get_answer() -> None:
    peer = PeerInfo(
        KEY, None, (bytes([1, 2, 3, 4]), 5, ""), 1_700_000_000_000_000_007, 11, 12, 25, [(bytes(4), 0)]
    )
    text = b"".join(format_get(DeviceInfo(KEY, 51820, 0, [peer])))
    assert text == (
        b"private_key=%s\nlisten_port=51820\npublic_key=%s\npreshared_key=%s\nprotocol_version=1\n"
        b"endpoint=1.2.3.4:5\nlast_handshake_time_sec=1700000000\nlast_handshake_time_nsec=7\n"
        b"tx_bytes=11\nrx_bytes=12\npersistent_keepalive_interval=25\nallowed_ip=0.0.0.0/0\n"
        % (HEX, HEX, b"0" * 64)
    )


def test_only_non_default_cipher_is_written() -> None:
    for cipher, reported in ((Cipher.CHACHA20_POLY1305, False), (Cipher.AES_256_GCM, True)):
        text = b"".join(format_get(DeviceInfo(peers=[PeerInfo(KEY, cipher=cipher)])))
        assert (b"\ncipher=aes-256-gcm\n" in text) is reported
        assert (b"cipher" in text) is reported


def test_client_skips_unknown_keys_and_sees_failures() -> None:
    assert answer(b"new_key=1\nlisten_port=7\nerrno=0\n\n").state.listen_port == 7
    assert answer(b"errno=-22\n\n").errno == 22
    assert not answer(b"errno=0\n").done


@pytest.mark.parametrize(
    "data",
    [
        b"\n",
        b"listen_port=1\n\n",
        b"listen_port=99999\nerrno=0\n\n",
        b"nonsense\nerrno=0\n\n",
        b"errno=x\n\n",
        b"errno=0\n\nmore",
        b"errno=0\n\nerrno=0\n\n",
        b"public_key=zz\n",
        b"public_key=%s\ncipher=rot13\n" % HEX,
        b"public_key=%s\nallowed_ip=1\n" % HEX,
        b"public_key=%s\nendpoint=host:1\n" % HEX,
        b"x" * 9000,
    ],
)
def test_what_is_no_answer(data: bytes) -> None:
    with pytest.raises(UapiProtocolError):
        answer(data)


def test_secrets_are_in_no_repr() -> None:
    secret = bytes([0xA5]) * 32
    for value in (
        SetPrivateKey(secret),
        SetPresharedKey(secret),
        PeerInfo(KEY, secret),
        DeviceInfo(secret, 0, 0, (PeerInfo(KEY, secret),)),
    ):
        assert "\\xa5" not in repr(value)
        assert secret.hex() not in repr(value)


# --- garbage ---

garbage_lines = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([b"get=1", b"set=1", b"", *PEER_BAD, *DEVICE_BAD, b"public_key=" + HEX, b"remove=true"]),
)


def drain(operations: Iterable[Operation]) -> None:
    for operation in operations:
        if isinstance(operation, EndRequest):
            uapi.format_status(operation)


@settings(max_examples=300)
@given(
    st.lists(st.one_of(garbage_lines.map(lambda line: line + b"\n"), st.binary(max_size=200)), max_size=20)
)
def test_garbage_gives_status_or_protocol_error(chunks: list[bytes]) -> None:
    for first in (b"", b"set=1\n", b"set=1\npublic_key=%s\n" % HEX):
        parser = RequestParser()
        try:
            drain(parser.feed(first))
            for chunk in chunks:
                drain(parser.feed(chunk))
        except UapiProtocolError:
            pass
        drain(parser.close())
        client = ResponseParser()
        try:
            for chunk in chunks:
                client.feed(chunk)
        except UapiProtocolError:
            pass
