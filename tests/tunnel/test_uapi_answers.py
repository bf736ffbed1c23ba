"""With any request and any failure there is one ``errno=``, and the connection stays open."""

from __future__ import annotations

import asyncio
import errno
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from served import Served, served, serving

from udpring.errors import RingError

KEYS = ["11" * 32, "22" * 32, "00" * 32, "zz" * 32, "11"]
NUMBERS = [
    "0",
    "1",
    "08",
    "25",
    "65535",
    "65536",
    "4294967295",
    "4294967296",
    "9" * 700,
    "-1",
    "+5",
    " 5",
    "5_0",
    "",
]
ADDRESSES = [
    "10.0.0.1",
    "10.0.0",
    "fd00::1",
    "fe80::1%1",
    "fe80::1%4294967296",
    "fe80::1%lo",
    "::ffff:1.2.3.4",
    "",
]

number = st.sampled_from(NUMBERS)
address = st.sampled_from(ADDRESSES)
free = st.text(st.characters(exclude_characters="\n", exclude_categories=["Cs"]), max_size=40)
value = st.one_of(
    number,
    st.sampled_from(KEYS),
    st.builds("{}/{}".format, address, number),
    st.builds("-{}/{}".format, address, number),
    st.builds("{}:{}".format, address, number),
    st.builds("[{}]:{}".format, address, number),
    st.sampled_from(["true", "false", "1", "aes-256-gcm"]),
    free,
)
KEY_NAMES = ["private_key", "listen_port", "fwmark", "replace_peers", "public_key", "remove", "update_only"]
KEY_NAMES += [
    "preshared_key",
    "endpoint",
    "cipher",
    "offload",
    "persistent_keepalive_interval",
    "replace_allowed_ips",
]
KEY_NAMES += ["allowed_ip", "protocol_version", "get", "set", "errno"]
key = st.sampled_from(KEY_NAMES)
line = st.one_of(st.builds("{}={}".format, key, value), free.filter(bool))
request = st.tuples(st.sampled_from(["get", "set"]), st.lists(line, max_size=8))
FAILURES = [MemoryError(), RingError("no room", errno=errno.ENOSPC), OverflowError("wide")]
FAILURES += [ValueError("bad"), RuntimeError("bug")]
COMMANDS = [
    "peer_add",
    "apply_blocks",
    "endpoint",
    "prefixes",
    "prefixes_list",
    "bind",
    "mark",
    "identity",
    "peer_states",
]
failures = st.dictionaries(st.sampled_from(COMMANDS), st.sampled_from(FAILURES), max_size=2)


async def _answer(reader: asyncio.StreamReader) -> str:
    return (await asyncio.wait_for(reader.readuntil(b"\n\n"), 30)).decode()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(request, min_size=1, max_size=4), failures)
def test_each_request_has_one_errno(
    requests: list[tuple[str, list[str]]], failing: dict[str, Exception]
) -> None:
    async def body(directory: Path) -> None:
        async with served(directory) as here:
            await here.set(f"public_key={KEYS[0]}", "allowed_ip=10.9.0.0/16")
            here.plane.fail.update(failing)
            reader, writer = await asyncio.open_unix_connection(here.path)
            for kind, lines in requests:
                writer.write("\n".join([f"{kind}=1", *lines, "\n"]).encode())
                answer = await _answer(reader)
                assert answer.count("errno=") == 1
                assert int(answer.rstrip().rpartition("errno=")[2]) * (-1 if kind == "set" else 1) >= 0
            here.plane.fail.clear()
            writer.write(b"get=1\n\n")
            assert (await _answer(reader)).endswith("errno=0\n\n")
            writer.close()

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(body(Path(directory)))


@serving
async def test_scope_of_33_bits_is_einval(here: Served) -> None:
    answer = await here.set(f"public_key={KEYS[0]}", "endpoint=[fe80::1%4294967296]:1")
    assert answer == f"errno=-{errno.EINVAL}\n\n"


@serving
async def test_no_memory_is_enomem(here: Served) -> None:
    here.plane.fail["peer_add"] = MemoryError()
    assert (
        await here.set(f"public_key={KEYS[0]}", "persistent_keepalive_interval=1")
        == f"errno=-{errno.ENOMEM}\n\n"
    )
    here.plane.fail = {"prefixes_list": MemoryError()}
    await here.set(f"public_key={KEYS[0]}", "persistent_keepalive_interval=1")
    assert (await here.ask("get=1\n\n")).endswith(f"errno={errno.ENOMEM}\n\n")


@serving
async def test_unexpected_failure_is_eio_and_logged(
    here: Served,
) -> None:
    here.plane.fail["endpoint"] = RuntimeError("a bug")
    with pytest.MonkeyPatch.context() as patch:
        logged: list[object] = []
        patch.setattr("udpring.tunnel.uapi_server.log.error", lambda *what, **more: logged.append(more))
        answer = await here.set(f"public_key={KEYS[0]}", "endpoint=10.0.0.1:1")
    assert answer == f"errno=-{errno.EIO}\n\n"
    assert logged == [{"exc_info": here.plane.fail["endpoint"]}]
