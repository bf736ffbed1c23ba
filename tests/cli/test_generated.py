"""Manual pages, completions and the systemd unit: made from the parser, so that each option is in them."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from udpring.cli import main
from udpring.cli._command_tree import Command, all_commands
from udpring.cli._completion import SHELLS
from udpring.cli._man_page import man_page

TOP = Path(__file__).resolve().parents[2]


def walk(command: Command) -> Iterator[Command]:
    yield command
    for child in command.children:
        yield from walk(child)


def test_variables_of_the_environment_are_documented() -> None:
    page = (TOP / "docs/commands.md").read_text()
    texts = [
        path.read_text()
        for pattern in ("*.py", "*.c")
        for path in (TOP / "udpring").rglob(pattern)
        if path.name not in ("build.py", "journal_log.py")  # variables of a build, fields of the journal
    ]
    read = {name for text in texts for name in re.findall(r'"(UDPRING_[A-Z_]+)"', text)}
    assert {"UDPRING_TIER", "UDPRING_AEAD", "UDPRING_CONFINEMENT"} <= read
    assert not {name for name in read if f"`{name}=" not in page}


OF_OTHERS = {"--comment", "--src-type", "--mark", "--save-mark", "--restore-mark", "--now"}
"""Options of iptables and systemctl that texts name."""


def test_options_in_texts_exist() -> None:
    """Each ``--option`` that a message, a help text or a docstring of the product names."""
    known = {
        flag
        for each in all_commands()
        for command in walk(each)
        for option in command.options
        for flag in option.flags
    }
    named = {
        found
        for path in (TOP / "udpring").rglob("*.py")
        if "native" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for found in re.findall(r"(?<![\w-])--[a-z][a-z-]+", node.value)
    }
    assert {"--dry-run", "--json", "--metrics"} <= named
    assert not named - known - OF_OTHERS


def run(*words: str | Path, stdin: str = "") -> str:
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def needs(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is missing")


def test_tree_has_every_command() -> None:
    udpring, wg = all_commands()
    assert [child.words[-1] for child in udpring.children] == sorted(main._modules([]))
    assert {"--foreground", "--version"} <= {flag for option in wg.options for flag in option.flags}
    (bench,) = (child for child in udpring.children if child.words[-1] == "bench")
    assert ("udpring", "bench", "udp") in [child.words for child in bench.children]


def test_man_page_names_every_option_and_argument() -> None:
    udpring, wg = all_commands()
    for command in (*udpring.children, wg):
        page = man_page(command, udpring.notes).replace("\\-", "-")
        for each in walk(command):
            for option in each.options:
                assert all(f"\\fB{flag}\\fR" in page for flag in option.flags)
            assert all(f"\\fI{argument.name}\\fR" in page for argument in each.arguments)


def test_man_pages_are_correct_roff(tmp_path: Path) -> None:
    needs("mandoc")
    assert main.main(["man", "--all", str(tmp_path)]) == 0
    pages = sorted(tmp_path.glob("*.8"))
    assert {"udpring.8", "udpring-up.8", "udpring-wg.8"} <= {page.name for page in pages}
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "warning", *pages],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    # A page has no date: the version tells how old it is.
    assert [line for line in done.stdout.splitlines() if "missing date" not in line] == []


def test_man_prints_one_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["man", "up"]) == 0
    assert capsys.readouterr().out.startswith('.TH "UDPRING-UP" "8"')
    assert main.main(["man", "nonesuch"]) == main.MISUSED
    assert "no command 'nonesuch'" in capsys.readouterr().err


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_has_every_word(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for tree in all_commands():
        for command in walk(tree):
            for flag in (flag for option in command.options for flag in option.flags):
                assert (f"-l {flag[2:]}" if shell == "fish" and flag[:2] == "--" else flag[1:]) in script
            assert all(child.words[-1] in script for child in command.children)
    needs(shell)
    run(shell, "-n", stdin=script)


def bash_completes(script: str, *words: str) -> set[str]:
    line = " ".join(f"'{word}'" for word in words)
    ask = f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; _udpring; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    return set(run("bash", "--norc", "-c", f"{script}\n{ask}").split())


def test_bash_completes(tmp_path: Path) -> None:
    script = SHELLS["bash"](all_commands())
    assert bash_completes(script, "udpring", "mon") == {"monitor"}
    assert bash_completes(script, "udpring", "up", "--dr") == {"--dry-run"}
    assert bash_completes(script, "udpring", "bench", "ae") == {"aead"}
    assert bash_completes(script, "udpring", "completion", "") >= {"bash", "zsh", "fish"}
    assert "--foreground" in bash_completes(script, "/usr/bin/udpring-wg", "--f")
    (tmp_path / "wg0.conf").touch()
    assert bash_completes(script, "udpring", "check", f"{tmp_path}/wg") == {f"{tmp_path}/wg0.conf"}


def test_fish_completes(tmp_path: Path) -> None:
    needs("fish")
    script = tmp_path / "udpring.fish"
    script.write_text(SHELLS["fish"](all_commands()))

    def completes(line: str) -> set[str]:
        found = run("fish", "--no-config", "-c", f"source {script}; complete -C '{line}'")
        return {each.split("\t")[0] for each in found.splitlines()}

    assert completes("udpring mon") == {"monitor"}
    assert "--dry-run" in completes("udpring up --d")
    assert "aead" in completes("udpring bench a")
    assert "--dry-run" not in completes("udpring show --d")


def test_unit_runs_this_installation() -> None:
    program = Path(sys.executable).parent / "udpring"
    unit = run(program, "unit")
    assert f"ExecStart={program} up --foreground %i\n" in unit
    assert "/usr/local/bin" not in unit
    assert run(sys.executable, "-P", "-m", "udpring", "unit") == unit
