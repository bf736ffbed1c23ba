"""The examples that need no root run as they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, *(str(argument) for argument in arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)


def test_datagrams() -> None:
    done = run(EXAMPLES / "datagrams.py", 640)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("640 datagrams, ")


def test_embed_node_says_what_is_wrong_with_its_file(tmp_path: Path) -> None:
    file = tmp_path / "wg0.conf"
    file.write_text("[Interface]\nPrivateKey = short\n")
    done = run(EXAMPLES / "embed_node.py", file)
    assert done.returncode == 1
    assert f"{file}:2:" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_readme_shows_the_example_as_it_is() -> None:
    example = (EXAMPLES / "embed_node.py").read_text()
    body = example[example.index("import asyncio") : example.index("\n\nif __name__")]
    assert body.replace("import sys\n", "").strip() in (EXAMPLES.parent / "README.md").read_text()
