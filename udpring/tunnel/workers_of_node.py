"""The part of ``Node`` that controls its worker threads."""

from __future__ import annotations

from udpring.tunnel.tunnel import Tunnel

__all__ = ["WorkersOfNode"]


class WorkersOfNode:
    """A part of ``Node``. It raises ClosedError while the node is down."""

    def _live(self) -> Tunnel:
        raise TypeError("this object is no node")

    def weigh(self, nice: int, *, group: int = -1, usual: int = 0) -> None:
        """Gives the workers a nice value, from -20 to -1, so that packets wait less for a busy CPU. While
        many datagrams come, and under bulk transfers without a sparse flow (RFC 8290), the workers have their
        usual one. With 0 they always have it.

        This needs CAP_SYS_NICE or RLIMIT_NICE. If the host refuses, nothing changes, and
        ``stats.plane.nice`` is 0. ``group`` and ``usual`` are for a session (``session_weight``).
        """
        self._live().plane.weigh(nice, group=group, usual=usual)
