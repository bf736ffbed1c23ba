"""Commands run as the user nobody, who gets a readable copy of the package."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.device_node import with_node


def environment(**more: str) -> dict[str, str]:
    """Lets a child find the package from any directory, however this process found it."""
    path = [entry for entry in sys.path if entry and Path(entry, "udpring").is_dir()]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONDONTWRITEBYTECODE": "1", **more}


def as_nobody(*command: str) -> list[str]:
    """The command line that runs ``command`` without any privilege."""
    nobody = pwd.getpwnam("nobody")
    ids = [f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]
    return ["setpriv", *ids, "--", *command]


@contextmanager
def readable_copy() -> Iterator[dict[str, str]]:
    """An environment with a copy of the packages, because only their owner may reach the originals."""
    place = Path("/tmp") / f"udpring-test-{secrets.token_hex(4)}"
    place.mkdir(mode=0o755)
    source = environment()["PYTHONPATH"].split(os.pathsep)[0]
    for package in ("udpring", "udpring_tools"):
        ignored = shutil.ignore_patterns("__pycache__", "*.c", "*.h")
        shutil.copytree(Path(source, package), place / package, ignore=ignored)
    for found in [place, *place.rglob("*")]:
        found.chmod(0o755 if found.is_dir() else 0o644)
    yield environment(PYTHONPATH=str(place))
    shutil.rmtree(place)


def user_namespaces(env: dict[str, str]) -> None:
    """Skips the test if nobody may not make a user namespace, or cannot run such an interpreter."""
    enter = ("unshare", "--user", "--map-root-user", "--net")
    tried = subprocess.run(
        [*with_node(), *as_nobody(*enter, sys.executable, "-P", "-c", "import udpring._native")],
        env=env, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    if tried.returncode:
        pytest.skip(f"no user namespace for nobody, or no such interpreter: {tried.stderr.strip()[-200:]}")
