"""The fixture of the commands' tests that the demo's tests use too."""

from cli.conftest import server

__all__ = ["server"]
