"""Fixtures of several modules."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from node_rig import Planes

from udpring.tunnel import attachment


@pytest.fixture
def planes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Planes]:
    made = Planes()
    monkeypatch.setattr(attachment, "Plane", made)
    yield made
    assert all(plane.closed for plane in made.opened), "a node left its plane open"
