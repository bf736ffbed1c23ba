"""The text of a configuration file.

Oracles: only ConfigError is raised, with a place inside the text. No error or warning shows a key. A
configuration survives writing and reading.
"""

from __future__ import annotations

import re
import sys

import atheris

with atheris.instrument_imports(
    include=["udpring.tunnel.config", "udpring.tunnel.config_parser", "udpring.tunnel.config_values"]
):
    from udpring.errors import ConfigError
    from udpring.tunnel import config_parser
    from udpring.tunnel.config import Config

SECRET = re.compile(r"(?:PrivateKey|PresharedKey)\s*=\s*([A-Za-z0-9+/]{20,}=?)", re.IGNORECASE)


def one_input(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    config, errors = config_parser.parse(text, "fuzz.conf")
    assert config is not None or errors
    secrets = [secret for secret in SECRET.findall(text) if text.count(secret) == 1]
    for error in errors:
        assert isinstance(error, ConfigError)
        assert error.line is None or 0 <= error.line <= text.count("\n") + 1, error.line
        assert not any(secret in str(error) for secret in secrets), "an error shows a key"
    if config is None:
        return
    assert not any(secret in warning for secret in secrets for warning in config.warnings), (
        "a warning shows a key"
    )
    written = config.dumps()
    again = Config.loads(written)
    assert again == config, written


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
