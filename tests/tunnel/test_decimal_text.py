"""Numbers in text: only ASCII digits, although ``int`` accepts more."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udpring.tunnel import uapi_values
from udpring.tunnel.daemon import DaemonOptions
from udpring.tunnel.decimal_text import parse_decimal
from udpring.tunnel.plane_values import SocketAddress
from udpring.tunnel.uapi_values import BadValueError

LAX = ["+5", "-0", " 5", "5 ", "5_0", "\u0665", "\uff15", "\u00b2", "5\n", "", "0x5", "5.0", "1e1"]


@pytest.mark.parametrize("text", LAX)
def test_what_int_is_lax_about_is_no_number(text: str) -> None:
    assert parse_decimal(text, 100) is None
    for key in ("listen_port", "fwmark"):
        with pytest.raises(BadValueError):
            uapi_values.DEVICE_KEYS[key](text)
    for key, value in (
        ("persistent_keepalive_interval", text),
        ("allowed_ip", f"10.0.0.0/{text}"),
        ("allowed_ip", f"fd00::/{text}"),
        ("endpoint", f"10.0.0.1:{text}"),
        ("endpoint", f"[fe80::1]:{text}"),
    ):
        with pytest.raises(BadValueError):
            uapi_values.PEER_KEYS[key](value)


@given(st.text(max_size=30), st.integers(0, 2**64))
def test_a_number_reads_as_it_is_written(text: str, most: int) -> None:
    number = parse_decimal(text, most)
    assert number is None or (0 <= number <= most and str(number) == (text.lstrip("0") or "0"))


@pytest.mark.parametrize("bits", ["08", "00", "032"])
def test_prefix_length_has_no_leading_zero(bits: str) -> None:
    with pytest.raises(BadValueError):
        uapi_values.parse_prefix(f"10.0.0.0/{bits}")
    assert uapi_values.parse_prefix("10.0.0.0/0")[2] == 0


def test_scope_beyond_any_interface_is_refused() -> None:
    assert uapi_values.parse_endpoint("[fe80::1%4294967295]:1")[2] == "4294967295"
    for number in (2**32, 10**14):
        with pytest.raises(BadValueError):
            uapi_values.parse_endpoint(f"[fe80::1%{number}]:1")
        with pytest.raises(ValueError, match="no interface"):
            SocketAddress.parse(f"fe80::1%{number}", 1)


def test_descriptor_of_the_environment_is_strict() -> None:
    with pytest.raises(Exception, match="not a descriptor number"):
        DaemonOptions.read("wg0", False, {"WG_TUN_FD": "\u0663"})
