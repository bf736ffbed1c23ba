"""Reports over the UAPI: any report arrives as it was sent, and nothing else is taken for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udpring.errors import ConfigError, HostError
from udpring.tunnel.uapi_lines import MAX_LINE, UapiProtocolError
from udpring.tunnel.uapi_report import MAX_LINES, ReportParser, failure, format_report

NAMES = st.text("abcdefghijklmnopqrstuvwxyz_0123456789", min_size=1, max_size=12).filter(
    lambda name: name != "errno"
)
SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=80) | st.floats(allow_nan=False)
REPORTS = st.recursive(
    st.dictionaries(NAMES, SCALARS, max_size=5),
    lambda inner: st.dictionaries(NAMES, SCALARS | inner.filter(bool), max_size=5),
    max_leaves=10,
)


@given(REPORTS, st.integers(1, 64))
def test_report_arrives_as_it_was_sent(report: dict[str, object], step: int) -> None:
    sent = b"".join(format_report(report)) + b"errno=0\n\n"  # type: ignore[arg-type]
    parser = ReportParser()
    for at in range(0, len(sent), step):
        assert parser.feed(sent[at : at + step]) is (at + step >= len(sent))
    assert (parser.report, parser.errno) == (report, 0)


@pytest.mark.parametrize("character", ["x", "\u00e4", "\U0001f600"])
def test_long_text_is_cut(character: str) -> None:
    (line,) = format_report({"why": character * 5000})
    assert len(line) <= MAX_LINE
    parser = ReportParser()
    parser.feed(line + b"errno=0\n\n")
    assert set(str(parser.report["why"])) == {character}


@pytest.mark.parametrize(
    "sent",
    [
        b"\n",
        b"a=1\n\n",
        b"a\n",
        b"a=\n",
        b"a=nonsense\n",
        b"errno=x\n",
        b"a=1\na.b=2\n",
        b"errno=0\n\na=1\n",
        b"a=" + b"[" * 4000 + b"\n",
        b"x" * 9000 + b"\n",
        b"a=1\n" * (MAX_LINES + 1),
    ],
)
def test_other_answers_are_refused(sent: bytes) -> None:
    with pytest.raises(UapiProtocolError):
        ReportParser().feed(sent)


def test_failure_names_its_kind() -> None:
    assert failure(ConfigError("no", file="a.conf")) == {
        "message": "a.conf: no",
        "misused": True,
        "refused": False,
    }
    assert failure(HostError("no", cure="do"))["refused"]
    assert failure(ValueError("x")) == {"message": "x", "misused": False, "refused": False}
