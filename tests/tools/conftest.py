"""The fixture that the tests of the commands and of the demo share."""

from cli.conftest import server

__all__ = ["server"]
