"""All exceptions of udpring. Every room may import this module, which imports none.

``UdpringError``
    ├── ``ConfigError``        a configuration is wrong: file, line, column, the offending text (exit 2)
    ├── ``HostError``          this host cannot do it: the cause and the cure (exit 3)
    ├── ``ClosedError``        used after close
    ├── ``WrongThreadError``   used from a thread that does not own it
    └── ``RingError``          the kernel refused an operation; also an ``OSError`` with its errno
"""

from __future__ import annotations

__all__ = ["ClosedError", "ConfigError", "HostError", "RingError", "UdpringError", "WrongThreadError"]


class UdpringError(Exception):
    """Base of all of udpring's own errors."""


class ConfigError(UdpringError, ValueError):
    """A configuration that cannot be used.

    ``str()`` is ``FILE:LINE:COLUMN: what is wrong: 'offending text' (the cure)``; line and column count from
    1 and are 0 where the configuration did not come from a file.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str = "<config>",
        line: int = 0,
        column: int = 0,
        text: str = "",
        cure: str = "",
    ) -> None:
        self.message = message
        self.file = file
        self.line = line
        self.column = column
        self.text = text
        self.cure = cure
        where = f"{file}:{line}:{column}: " if line else f"{file}: "
        quoted = f": {text!r}" if text else ""
        super().__init__(f"{where}{message}{quoted}" + (f" ({cure})" if cure else ""))


class HostError(UdpringError, OSError):
    """The host lacks something: a privilege, a device, a kernel feature. ``cure`` says what to do."""

    def __init__(self, message: str, *, errno: int = 0, cure: str = "") -> None:
        UdpringError.__init__(self, message)
        OSError.__init__(self, errno, message)
        self.message = message
        self.cure = cure

    def __str__(self) -> str:
        return self.message + (f" ({self.cure})" if self.cure else "")


class ClosedError(UdpringError):
    """The object was closed. Make a new one."""


class WrongThreadError(UdpringError, RuntimeError):
    """A ring belongs to the thread that opened it (io_uring's SINGLE_ISSUER). Use one ring per thread."""


class RingError(UdpringError, OSError):
    """The kernel refused an operation. ``errno`` is its code. The text names the operation."""

    def __init__(self, message: str, *, errno: int) -> None:
        UdpringError.__init__(self, message)
        OSError.__init__(self, errno, message)
        self.message = message

    def __str__(self) -> str:
        return self.message
