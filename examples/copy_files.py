#!/usr/bin/env python3
"""Copies a file or a folder with many reads and writes in flight: copy_files.py SOURCE TARGET."""

import asyncio
import os
import sys
from pathlib import Path

from udpring import UdpringError
from udpring.uring import Reactor, open_file

PIECE = 256 * 1024
FILES = 16
"""Files copied at once."""
PIECES = 8
"""Pieces of a file copied at once."""


async def copy_file(source: Path, target: Path) -> int:
    """Copies one file. Returns its length."""
    async with open_file(source) as reading, open_file(target, "wb") as writing:
        length = os.fstat(reading.fileno()).st_size
        offsets = iter(range(0, length, PIECE))

        async def copy_pieces() -> None:
            for offset in offsets:  # shared: each piece is copied once
                await writing.pwrite(await reading.pread(PIECE, offset), offset)

        await asyncio.gather(*(copy_pieces() for _ in range(PIECES)))
        return length


async def copy(source: Path, target: Path) -> tuple[int, int]:
    """Copies a file, or all regular files of a folder. Returns their number and their bytes."""
    pairs = [(source, target)]
    if source.is_dir():
        files = [path for path in sorted(source.rglob("*")) if path.is_file() and not path.is_symlink()]
        pairs = [(path, target / path.relative_to(source)) for path in files]
        for _, path in pairs:
            path.parent.mkdir(parents=True, exist_ok=True)
    waiting = iter(pairs)
    lengths: list[int] = []

    async def copy_files() -> None:
        for one in waiting:
            lengths.append(await copy_file(*one))

    async with Reactor() as reactor:
        await asyncio.gather(*(copy_files() for _ in range(FILES)))
        print(f"{reactor.backend}: ", end="")
    return len(lengths), sum(lengths)


def main() -> None:
    """Copies what the command line names."""
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    files, length = asyncio.run(copy(Path(sys.argv[1]), Path(sys.argv[2])))
    print(f"{files} files, {length} bytes")


if __name__ == "__main__":
    try:
        main()
    except (UdpringError, OSError) as error:
        sys.exit(str(error))
