"""Whether the commands of a configuration may be run.

Anybody who can write or rename the file could run commands as the user of this process. The rule is sshd's:
the file and each folder above it must belong to root or to that user, and nobody else may write them. A
folder with the sticky bit, such as /tmp, may be writable by others, because they cannot replace entries of
this user.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from udpring.errors import ConfigError

__all__ = ["require_trusted"]


def require_trusted(path: Path) -> None:
    """Raises ConfigError, which names the file or folder, if somebody else can change the configuration.

    ``path`` must have no symbolic links, so that the checked file is the one that is read.
    """
    owners = {0, os.geteuid()}
    for each in (path, *path.parents):
        why = _flaw(each, owners, folder=each is not path)
        if why:
            raise ConfigError(
                f"its commands are not run: {each} {why}",
                file=os.fspath(path),
                cure="make root its owner and only writer, or pass --allow-hooks",
            )


def _flaw(path: Path, owners: set[int], *, folder: bool) -> str:
    try:
        found = path.lstat()
    except OSError as failed:
        return f"cannot be looked at: {failed.strerror}"
    if not folder and not stat.S_ISREG(found.st_mode):
        return "is not a regular file"
    if found.st_uid not in owners:
        return f"belongs to user {found.st_uid}"
    open_to = [
        who for who, bit in (("its group", stat.S_IWGRP), ("everybody", stat.S_IWOTH)) if found.st_mode & bit
    ]
    if open_to and not (folder and found.st_mode & stat.S_ISVTX):
        return f"can be written by {open_to[-1]}"
    return ""
