#!/usr/bin/env python3
"""Counts the files of a tree and their bytes, with many statx in flight: walk_statx.py FOLDER."""

import asyncio
import os
import stat
import sys

from udpring import UdpringError
from udpring.uring import Reactor

AT_ONCE = 256
"""Operations in flight."""


async def walk(folder: str) -> None:
    """Prints the numbers of files and folders below ``folder``, and the bytes of the files."""
    files = folders = length = 0
    waiting = [folder]
    async with Reactor() as reactor:
        while waiting:
            # Names come from getdents(2), which io_uring does not have.
            names = [entry.path for each in waiting for entry in os.scandir(each)]
            waiting = []
            for start in range(0, len(names), AT_ONCE):
                batch = names[start : start + AT_ONCE]
                found = await asyncio.gather(
                    *(reactor.do("statx", name, follow_symlinks=False) for name in batch)
                )
                for name, completion in zip(batch, found, strict=True):
                    completion.check()
                    state = completion.stat
                    if stat.S_ISDIR(state.st_mode):
                        folders += 1
                        waiting.append(name)
                    else:
                        files += 1
                        length += state.st_size
        print(f"{reactor.backend}: {files} files, {folders} folders, {length} bytes")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        asyncio.run(walk(sys.argv[1]))
    except (UdpringError, OSError) as error:
        sys.exit(str(error))
