"""Fixtures that several files here use."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from .denial import run_denied
from .reactors import HOSTS, ON_BACKENDS, Host


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Calls the function of a test that is marked ``io_uring_denied``."""
    if pyfuncitem.get_closest_marker("io_uring_denied") is None:
        return None
    names = pyfuncitem._fixtureinfo.argnames
    run_denied(pyfuncitem.obj, **{name: pyfuncitem.funcargs[name] for name in names})
    return True


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
