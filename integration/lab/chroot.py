"""A new root directory with the host's programs. /dev, /proc and /run only on request."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

#: Created new instead of taken from the host.
OWN = ("dev", "proc", "run", "sys", "tmp", "var")
PARTS = {
    "null": "mknod -m 666 dev/null c 1 3",
    "tun": "mknod -m 666 dev/net/tun c 10 200",
    "proc": "mount -t proc -o ro proc proc",
    "run": "mount -t tmpfs tmpfs run",
    "readonly run": "mount -t tmpfs -o ro tmpfs run",
    "full run": "mount -t tmpfs -o nr_inodes=1 tmpfs run",
    "closed run": "mount -t tmpfs -o mode=0500 tmpfs run && chown 65534:65534 run",
}


def chroot(root: Path, *parts: str) -> list[str]:
    """The beginning of a command line. The command after it runs in ``root``, in its own mount namespace,
    with the host's programs and libraries read-only and ``parts`` of PARTS. "readonly": the root itself is
    read-only."""
    steps = ["set -e", f"mount -t tmpfs tmpfs {shlex.quote(str(root))}", f"cd {shlex.quote(str(root))}"]
    steps += ["mkdir " + " ".join(OWN), "mkdir dev/net", "ln -s ../run var/run"]
    for entry in sorted(Path("/").iterdir()):
        here = shlex.quote(entry.name)
        if entry.is_symlink():
            steps.append(f"cp -a /{here} {here}")
        elif entry.is_dir() and entry.name not in OWN:
            steps.append(f"mkdir {here}; mount --rbind -o ro /{here} {here}")
    # The package may lie under one of these, as a copy for nobody does.
    for entry in {Path(each) for each in sys.path if each}:
        if entry.is_dir() and entry.parts[1] in OWN:
            here = shlex.quote(str(entry)[1:])
            steps.append(f"mkdir -p {here}; mount --bind -o ro /{here} {here}")
    steps += [PARTS[part] for part in parts if part != "readonly"]
    if "readonly" in parts:
        steps.append("mount -o remount,ro .")
    steps.append('exec chroot . "$@"')
    return ["unshare", "--mount", "sh", "-c", "\n".join(steps), "sh"]
