"""Each reason for a drop has its own name and counter."""

from udpring._native import ffi, lib


def test_every_reason_has_its_own_name() -> None:
    names = [ffi.string(lib.udpring_drop_name(reason)).decode() for reason in range(lib.UDPRING_DROP_COUNT)]
    assert len(set(names)) == len(names)
    for reason, name in enumerate(names):
        assert getattr(lib, f"UDPRING_DROP_{name.upper()}") == reason
    assert len(ffi.new("struct udpring_plane_stats *").drops) >= len(names)


def test_what_is_no_reason_has_no_name() -> None:
    for reason in (-1, lib.UDPRING_DROP_COUNT, 2**31 - 1, -(2**31)):
        assert lib.udpring_drop_name(reason) == ffi.NULL
