"""One topology, made and removed by a script of netns-scripts/, as a person would do it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from lab.space import Space

SCRIPTS = Path(__file__).resolve().parents[2] / "netns-scripts"


class Topology:
    """``up`` runs on construction. The rig that made it calls ``down``."""

    def __init__(self, script: str, prefix: str, *options: str) -> None:
        self.script = SCRIPTS / script
        self.prefix = prefix
        self.spaces: dict[str, Space] = {}
        for line in self._say("up", prefix, *options).splitlines():
            node, space, four, six = line.split()
            self.spaces[node] = Space(space, four.split(","), six.split(","))

    def _say(self, *args: str) -> str:
        done = subprocess.run(
            [str(self.script), *args], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, (
            f"{self.script.name} {' '.join(args)}: exit {done.returncode}: {done.stderr}"
        )
        return done.stdout

    def __getitem__(self, node: str) -> Space:
        return self.spaces[node]

    def set(self, name: str, value: str) -> None:
        """Changes an option while the topology runs."""
        self._say("set", self.prefix, name, value)

    def down(self) -> None:
        self._say("down", self.prefix)
