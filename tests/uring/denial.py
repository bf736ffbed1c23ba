"""Runs code where seccomp(2) denies io_uring.

A filter binds the thread that installs it, and the threads and processes that this one starts. So a test that
is marked ``io_uring_denied`` runs on a thread of its own (conftest.py).
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import Any

from seccomp import Rule, install


def run_denied(function: Callable[..., Any], **arguments: Any) -> Any:
    """Calls ``function`` on a thread that may not use io_uring. Returns its result."""
    result: list[Any] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            install([Rule("io_uring_setup", errno.EPERM)])
            result.append(function(**arguments))
        except BaseException as error:  # pytest.skip is no Exception
            failure.append(error)

    thread = threading.Thread(target=run, name="io_uring denied", daemon=True)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return result[0]
