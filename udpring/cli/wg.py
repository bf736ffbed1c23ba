"""``udpring-wg``: one WireGuard interface as a process, a drop-in for ``wireguard-go``.

``udpring-wg IFACE`` makes the interface, serves ``wg`` at /var/run/wireguard/IFACE.sock and goes to the
background. It returns 0 only when both exist. It ends on SIGTERM, SIGINT or SIGHUP, when the interface is
deleted, or when the socket file is removed. Then it removes both.
"""

from __future__ import annotations

import gc
import mmap
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from udpring import __version__, cli
from udpring.errors import ConfigError, UdpringError

if TYPE_CHECKING:
    import argparse

__all__ = ["main", "parser"]

EPILOG = """environment:
  LOG_LEVEL=verbose|error|silent   default: error. verbose also logs the tier and the AEAD in use
  WG_TUN_FD=N, WG_UAPI_FD=N        use these open descriptors
  WG_PROCESS_FOREGROUND=1          same as -f
  UDPRING_TIER=uring-multishot|uring-pool|mmsg   default: the best that works on this host
  UDPRING_OFFLOADS=all|tun|udp|none              kernel offloads to use. Default: all
  UDPRING_TIMESTAMPS=DIRECTORY     keep the peers' last timestamps in this directory. A handshake
                                   captured before a restart is then refused. Default: off
  UDPRING_LOG_FORMAT=text|json|journald   lines of the log. Default: journald where the journal reads
                                   standard error, else text
  UDPRING_WORKERS=N                worker threads, 1 to 16. Default: by the number of cores
  UDPRING_NICE=N                   nice value of the workers, -20 to 0. 0 leaves it as it is.
                                   Default: -10, where the host permits that
  UDPRING_CONFINEMENT=off          keep all capabilities and system calls after the start. Default: on

exit status: 0 done, 1 failed, 2 bad usage or environment, 3 refused by the host (not root, no TUN device,
name taken)"""


MISUSED, HOST_CANNOT = 2, 3
"""Exit codes of all commands (``cli``)."""
ROOM = 4 << 20
"""Bytes for the end of a process that has run out of memory."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    gc.disable()  # until load_modules. A collection finds no garbage there, and takes 4 % of the start
    room = []
    try:
        room.append(reserve(ROOM))
        cli.open_standard_streams()
        return _main(arguments)
    except ConfigError as wrong:
        print(f"udpring-wg: {wrong}", file=sys.stderr)
        return MISUSED
    except UdpringError as cannot:
        print(f"udpring-wg: {cannot}", file=sys.stderr)
        return HOST_CANNOT
    except Exception as failed:
        room.clear()
        from udpring.tunnel.refusals import explained  # noqa: PLC0415

        refusal = explained(failed)
        if refusal is None:
            raise
        print(f"udpring-wg: {refusal}", file=sys.stderr)
        return HOST_CANNOT


def reserve(size: int) -> mmap.mmap:
    """Address space that becomes free with the object. Nothing writes to it, so it takes no memory."""
    return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def parser() -> argparse.ArgumentParser:
    """The parser of the arguments."""
    import argparse  # noqa: PLC0415

    made = argparse.ArgumentParser(
        prog="udpring-wg",
        description="Run one WireGuard interface as a process. Configure it with wg. A drop-in for "
        "wireguard-go.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("-f", "--foreground", action="store_true", help="stay in the foreground, log to stderr")
    made.add_argument(
        "--log-format", choices=("text", "json", "journald"), help="lines of the log (UDPRING_LOG_FORMAT)"
    )
    made.add_argument("--version", action="version", version=f"udpring-wg {__version__}")
    made.add_argument("interface", metavar="IFACE", help="interface name, 1 to 15 bytes")
    return made


def _main(arguments: Sequence[str] | None) -> int:
    from udpring.tunnel.daemon import DaemonOptions, start  # noqa: PLC0415 - after gc.disable

    name, foreground, log_format = words_of(sys.argv[1:] if arguments is None else arguments)
    if not 1 <= len(os.fsencode(name)) <= 15 or "/" in name or name in (".", "..") or not _is_utf8(name):
        parser().error(
            f"argument IFACE: {name!r} is not an interface name. It needs 1 to 15 bytes of UTF-8 without '/'"
        )
    return start(DaemonOptions.read(name, foreground, os.environ, log_format))


def words_of(words: Sequence[str]) -> tuple[str, bool, str | None]:
    """The interface, whether to stay in the foreground, and the format of the log.

    The usual ``[-f] IFACE`` is read without argparse, which takes half a MiB of each node and each broker.
    """
    *flags, name = words or ("",)
    if name[:1] not in ("", "-") and all(flag in ("-f", "--foreground") for flag in flags):
        return name, bool(flags), None
    taken = parser().parse_args(words)
    return taken.interface, taken.foreground, taken.log_format


def _is_utf8(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)


if __name__ == "__main__":
    sys.exit(main())
