"""The network test of README.md runs as printed, except that its names are random here."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from lab.topology import SCRIPTS

TOP = SCRIPTS.parent


def commands() -> str:
    """The indented block that begins with the name of a topology."""
    found = re.search(r"^    topology=.*\n(?:    .*\n)+", (TOP / "README.md").read_text(), re.MULTILINE)
    assert found is not None
    return found[0]


@pytest.mark.slow
def test_network_test_of_readme_works() -> None:
    prefix, interface = (f"r{secrets.token_hex(3)}" for _ in range(2))
    script = re.sub(r"\blab\b", prefix, commands())
    script = (
        script.replace("wga", f"{interface}a")
        .replace("wgb", f"{interface}b")
        .replace("wg$n", f"{interface}$n")
    )
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    try:
        done = subprocess.run(
            ["bash", "-e", "-c", script],
            cwd=TOP,
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    finally:
        subprocess.run([SCRIPTS / "lossy", "down", prefix], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"10 packets transmitted, [1-9]", done.stdout), done.stdout
    assert not list(Path("/run/netns").glob(f"{prefix}-*"))
