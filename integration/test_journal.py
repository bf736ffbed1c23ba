"""The log of a node whose standard error is the journal's: chosen by itself, also once it is confined."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from lab import SUBJECT, Rig, until

LINE = re.compile(r"<([0-7])>\((\w+)\) .")


@pytest.mark.skipif(Path("/run/systemd/journal/socket").exists(), reason="this host's journal would get it")
def test_lines_have_priorities_where_the_journal_reads(rig: Rig) -> None:
    """There is no journal here, so the text goes to standard error with priorities."""
    node = rig.node(rig.topology()["a"], inner=["10.9.0.1/24"])
    node.log.touch()
    found = node.log.stat()
    node.program = SUBJECT.with_env(JOURNAL_STREAM=f"{found.st_dev}:{found.st_ino}")
    node.start()
    before = len(node.log_text())
    node.space.ip("link", "set", node.interface, "down")
    until(lambda: len(node.log_text()) > before, "a line that the running node writes")
    node.stop()
    lines = [LINE.match(line) for line in node.log_text().splitlines()]
    assert all(lines), node.log_text()
    assert {line[2] for line in lines if line} == {node.interface}
    assert "7" in {line[1] for line in lines if line}
