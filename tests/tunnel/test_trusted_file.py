"""Files that may hold commands, by owner and mode of the file and of each folder above it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from udpring.errors import ConfigError
from udpring.tunnel.trusted_file import require_trusted

STRANGER = 4242

pytestmark = pytest.mark.skipif(
    Path("/").stat().st_uid != 0, reason="a user namespace without the host's root trusts no folder"
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path.resolve() / "a" / "b" / "wg0.conf"
    made.parent.mkdir(parents=True)
    made.touch(0o600)
    made.parent.chmod(0o755)
    return made


def test_a_file_of_ours_is_trusted(file: Path) -> None:
    require_trusted(file)
    file.chmod(0o644)
    require_trusted(file)


@pytest.mark.parametrize(("mode", "who"), [(0o620, "its group"), (0o602, "everybody"), (0o666, "everybody")])
def test_a_file_that_others_write_is_not(file: Path, mode: int, who: str) -> None:
    file.chmod(mode)
    with pytest.raises(ConfigError, match=f"{file} can be written by {who}"):
        require_trusted(file)


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_a_folder_that_others_write_is_not(file: Path, up: int, mode: int) -> None:
    folder = file.parents[up - 1]
    folder.chmod(mode)
    with pytest.raises(ConfigError, match=f"{folder} can be written by"):
        require_trusted(file)
    folder.chmod(mode | 0o1000)
    require_trusted(file)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("up", [0, 1, 2])
def test_foreign_file_or_folder_is_not_trusted(file: Path, up: int) -> None:
    given = (file, *file.parents)[up]
    os.chown(given, STRANGER, -1)
    with pytest.raises(ConfigError, match=f"{given} belongs to user {STRANGER}"):
        require_trusted(file)
    # In a stranger's sticky folder, the stranger may rename everything.
    if up:
        given.chmod(0o1755)
        with pytest.raises(ConfigError, match="belongs to user"):
            require_trusted(file)


def test_a_pipe_is_no_file(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)
    with pytest.raises(ConfigError, match="not a regular file"):
        require_trusted(file)


def test_what_is_not_there_is_not(file: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be looked at"):
        require_trusted(file.with_name("none.conf"))
