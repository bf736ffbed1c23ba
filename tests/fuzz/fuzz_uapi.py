"""Both ends of the UAPI with requests and answers of any bytes, cut anywhere.

Oracles: only UapiProtocolError is raised. Cuts change nothing. A parsed message, written and parsed again, is
the same. The parser keeps at most one chunk and one line.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from pathlib import Path

import atheris

with atheris.instrument_imports(
    include=["udpring.tunnel.uapi", "udpring.tunnel.uapi_lines", "udpring.tunnel.uapi_values"]
):
    from udpring.tunnel import uapi

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from reference.uapi_answers import format_get

ERRNOS = {0, errno.EINVAL, errno.EPROTO, errno.ENOMEM}


def chunks(data: bytes, cut: int) -> Iterator[bytes]:
    """The bytes in pieces of ``cut``. 0: in one piece."""
    step = cut or max(1, len(data))
    for at in range(0, len(data), step):
        yield data[at : at + step]


def request(data: bytes, cut: int) -> tuple[list[uapi.Operation], bool]:
    """The server's operations, and whether it closed the connection."""
    parser, operations = uapi.RequestParser(), []
    try:
        for chunk in chunks(data, cut):
            operations += parser.feed(chunk)
            kept = len(parser._lines._buffer) - parser._lines._start
            assert kept <= max(uapi.MAX_LINE, len(chunk)), kept
        operations += parser.close()
    except uapi.UapiProtocolError:
        return operations, True
    return operations, False


def check_request(data: bytes, cut: int) -> None:
    operations, broken = request(data, 0)
    assert (operations, broken) == request(data, cut), "it matters where the bytes are cut"
    settings = []
    for operation in operations:
        if isinstance(operation, uapi.EndRequest):
            assert operation.errno in ERRNOS, operation
            again, failed = request(b"".join(uapi.format_set(settings)), 0)
            assert not failed
            assert again == [*settings, uapi.EndRequest("set", 0, "")], (settings, again)
            settings = []
        elif not isinstance(operation, uapi.GetRequest | uapi.ReportRequest):
            settings.append(operation)


def answer(data: bytes, cut: int) -> uapi.ResponseParser | None:
    parser = uapi.ResponseParser()
    try:
        for chunk in chunks(data, cut):
            parser.feed(chunk)
    except uapi.UapiProtocolError:
        return None
    return parser


def check_answer(data: bytes, cut: int) -> None:
    parser = answer(data, 0)
    other = answer(data, cut)
    assert (parser is None) == (other is None), "it matters where the bytes are cut"
    if parser is None or other is None or not parser.done:
        return
    assert (parser.errno, parser.state) == (other.errno, other.state)
    again = answer(b"".join(format_get(parser.state)) + b"errno=0\n\n", cut)
    assert again is not None
    assert again.state == parser.state


def one_input(data: bytes) -> None:
    if len(data) < 2:
        return
    check = check_answer if data[0] & 1 else check_request
    check(data[2:], data[1])


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
