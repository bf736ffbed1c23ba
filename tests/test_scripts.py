"""Rules for scripts/: only one installs software, and the commit hooks are steps of scripts/check."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent
INSTALLS = re.compile(r"\b(?:apt-get|apt|dnf|pip|pipx|npm)\b[^\n#|;'\"]*\binstall\b")


def check(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [TOP / "scripts" / "check", *words], capture_output=True, text=True, check=False, timeout=60
    )


def installing(text: str) -> list[str]:
    """Commands that install software, except commands that a message tells a person to run."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return [line for line in lines if INSTALLS.search(re.sub(r"sudo apt-get install", "", line))]


def test_only_bootstrap_installs_software() -> None:
    scripts = [path for folder in ("scripts", ".ci", "tests/fuzz") for path in (TOP / folder).iterdir()]
    found = {path.name for path in scripts if path.is_file() and installing(path.read_text(errors="replace"))}
    assert found == {"bootstrap", "wheel-test"}  # the latter into a root file system of its own


def test_wheel_test_names_wheels_that_it_cannot_run(tmp_path: Path) -> None:
    for name, cause in (
        ("udpring-1-cp311-abi3-musllinux_1_2_x86_64.whl", "is for no Debian on x86-64 or arm64"),
        ("udpring-1.tar.gz", "is for no Debian on x86-64 or arm64"),
        ("no.whl", "scripts/wheel OUTDIR builds it"),
    ):
        if name != "no.whl":
            (tmp_path / name).touch()
        refused = subprocess.run(
            [TOP / "scripts" / "wheel-test", tmp_path / name],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert refused.returncode == 2
        assert cause in refused.stderr


def test_hooks_of_a_commit_are_steps_of_check() -> None:
    steps = set(re.findall(r"^  (\w+)  ", check("--help").stdout, re.MULTILINE))
    hooks = re.findall(r"^        entry: (.*)$", (TOP / ".pre-commit-config.yaml").read_text(), re.MULTILINE)
    assert {"lint", "warnings", "rules"} <= steps
    assert len(hooks) > 3
    assert {hook.removeprefix("scripts/check ") for hook in hooks} <= steps


def test_check_names_its_steps() -> None:
    done = check("nonesuch")
    assert done.returncode == 2
    assert "no step nonesuch: lint format types" in done.stderr


def test_fast_says_what_it_leaves_out() -> None:
    done = subprocess.run(
        [TOP / "scripts" / "test", "--help"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0
    assert re.search(r"--fast: .*\n(?:.*\n)*?.*Left out: integration/, sanitisers", done.stdout)


def test_fast_runs_each_room() -> None:
    """--fast either runs a new folder of tests or names it among those left out."""
    script = (TOP / "scripts" / "test").read_text()
    command = script[script.index("run_pytest fast") : script.index("if chosen unit; then")]
    run = set(re.findall(r"tests/(\w+)(?:\.py)?", command))
    left_out = {"fuzz", "native", "simulation", "suites", "tools", "reference", "vectors", "tsan"}
    folders = {path.name for path in (TOP / "tests").iterdir() if path.is_dir() and path.name[0] not in "._"}
    assert folders - run <= left_out
    assert all((TOP / "tests" / name).exists() or (TOP / "tests" / f"{name}.py").exists() for name in run)


def release(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [folder / "scripts" / "release", *words], capture_output=True, text=True, check=False, timeout=60
    )


def test_release_names_the_changes_and_makes_the_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "A")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "a@example.org")
    (tmp_path / "scripts").mkdir()
    shutil.copy(TOP / "scripts" / "release", tmp_path / "scripts")
    changelog = tmp_path / "CHANGELOG.md"
    changelog.write_text("# Changelog\n\n## [Unreleased]\n\n## [1.0.0] - 2026-01-02\n\n- a\n")

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout

    git("init", "-q")
    git("add", ".")
    git("commit", "-q", "-m", "A")
    assert "has nothing under [Unreleased]" in release(tmp_path, "1.1.0").stderr
    changelog.write_text(changelog.read_text().replace("ed]\n", "ed]\n\n- b\n", 1))
    assert "changes without a commit" in release(tmp_path, "1.1.0").stderr
    git("commit", "-q", "-a", "-m", "B")
    assert release(tmp_path, "1.1").returncode == 2
    assert release(tmp_path, "1.1.0", "2026-11-30").returncode == 0
    assert "## [Unreleased]\n\n## [1.1.0] - 2026-11-30\n\n- b\n" in changelog.read_text()
    assert git("describe", "--dirty").strip() == "v1.1.0"
    assert "the tag v1.1.0 exists" in release(tmp_path, "1.1.0").stderr


@pytest.mark.skipif(os.geteuid() != 0 or bool(shutil.which("promtool")), reason="bootstrap fetches nothing")
@pytest.mark.parametrize(
    "apt_get", ["exit 100", ": > prometheus_1_all.deb"], ids=["refused", "without promtool"]
)
def test_promtool_that_cannot_be_had_fails_nothing(apt_get: str, tmp_path: Path) -> None:
    """And it is asked for once, not by each run of bootstrap."""
    asked, programs = tmp_path / "asked", tmp_path / "programs"
    programs.mkdir()
    for name, words in (("apt-get", f"echo >>{asked}; {apt_get}"), ("dpkg-deb", "exit 0")):
        (programs / name).write_text(f"#!/bin/sh\n{words}\n")
        (programs / name).chmod(0o755)
    text = (TOP / "scripts" / "bootstrap").read_text()
    function = text[text.index("fetch_promtool() {") : text.index("make_venv() {")]
    script = f"set -euo pipefail\nsay() {{ :; }}\n{function}\nfetch_promtool\nfetch_promtool\n"
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    subprocess.run(("bash", "-c", script), cwd=tmp_path, env=environment, check=True)
    assert asked.read_text() == "\n"
