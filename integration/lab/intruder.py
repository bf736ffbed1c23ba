"""``udpring-wg``, or a command of ``udpring``, with an intruder: a thread that runs Python code which comes
over a UNIX socket.

It stands for an attacker who runs code in a node. For tests that try what a confined node may do. Run as a
program. $UDPRING_INTRUDER names the socket.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import sys
import threading
from typing import Any

from udpring.cli import main as commands
from udpring.cli import wg
from udpring.cli._metrics_server import MetricsServer
from udpring.tunnel.tunnel import Tunnel

_start = Tunnel.start
_serve_metrics = MetricsServer.serve
_libc = ctypes.CDLL(None, use_errno=True)


def call(number: int, *arguments: Any) -> int:
    """A system call by its number: its result, or -errno."""
    result: int = _libc.syscall(ctypes.c_long(number), *map(_word, arguments))
    return -ctypes.get_errno() if result == -1 else result


def _word(argument: Any) -> Any:
    return argument if isinstance(argument, bytes) else ctypes.c_long(argument)


def attempt(code: str) -> Any:
    """The value of an expression. An OSError counts as its -errno."""
    try:
        return eval(code, {"call": call, "os": os, "socket": socket, "sys": sys, "threading": threading})
    except OSError as refused:
        return -(refused.errno or 0)
    except Exception as failed:
        return repr(failed)


def _serve(listening: socket.socket) -> None:
    while True:
        client, _ = listening.accept()
        with client, client.makefile("rw") as lines:
            for line in lines:
                lines.write(json.dumps(attempt(line)) + "\n")
                lines.flush()


if __name__ == "__main__":
    listening = socket.socket(socket.AF_UNIX)  # before the node is confined
    listening.bind(os.environ["UDPRING_INTRUDER"])
    listening.listen()

    def _start_with_intruder(tunnel: Tunnel) -> None:
        _start(tunnel)
        threading.Thread(target=_serve, args=(listening,), daemon=True).start()

    def _serve_with_intruder(server: MetricsServer) -> None:
        _serve_metrics(server)
        threading.Thread(target=_serve, args=(listening,), daemon=True).start()

    setattr(Tunnel, "start", _start_with_intruder)  # noqa: B010 - mypy refuses to assign a method
    setattr(MetricsServer, "serve", _serve_with_intruder)  # noqa: B010
    sys.exit(commands.main() if sys.argv[1] in ("run", "proxy", "up", "exporter") else wg.main())
