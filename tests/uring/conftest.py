"""Fixtures that several files here use."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from .reactors import HOSTS, ON_BACKENDS, Host


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> Host:
    found: Host = request.param
    return found


@pytest.fixture(params=ON_BACKENDS)
def on_asyncio(request: pytest.FixtureRequest) -> Host:
    found: Host = request.param
    return found


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)
