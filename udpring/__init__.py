"""udpring: a UDP tunnel data plane for Linux on two io_uring rings, speaking the WireGuard protocol."""

from udpring.errors import (
    ClosedError,
    ConfigError,
    HostError,
    RingError,
    UdpringError,
    WrongThreadError,
)

__version__ = "0.1.0"

__all__ = [
    "ClosedError",
    "ConfigError",
    "HostError",
    "RingError",
    "UdpringError",
    "WrongThreadError",
    "__version__",
]
