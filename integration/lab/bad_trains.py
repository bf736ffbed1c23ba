"""A link that loses or mangles trains of datagrams (UDP_SEGMENT) while single datagrams pass."""

from __future__ import annotations

import subprocess
from pathlib import Path

from lab.space import Space

PROGRAM = Path(__file__).with_name("bad_trains.bpf.c")


def spoil_trains(space: Space, directory: Path, how: str, link: str = "under") -> None:
    """``how``: "lose" or "mangle". Of the namespace's outgoing trains, from now on."""
    made = directory / "bad_trains.o"
    headers = subprocess.check_output(["gcc", "-print-multiarch"], text=True).strip()
    subprocess.run(
        ["clang", "-O2", "-Wall", "-Werror", "-target", "bpf", "-I", f"/usr/include/{headers}",
         *(["-DMANGLE"] if how == "mangle" else []), "-c", str(PROGRAM), "-o", str(made)],
        check=True, timeout=120,
    )  # fmt: skip
    for words in (
        f"qdisc replace dev {link} clsact",
        f"filter add dev {link} egress bpf direct-action object-file {made} section classifier",
    ):
        subprocess.run(space.argv("tc", *words.split()), check=True, timeout=60)
