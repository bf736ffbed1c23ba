"""Takes secrets, and where asked addresses, out of text that leaves the host.

Secrets that are known are removed in every usual encoding. Anything else that looks like a key is removed
too, unless it is a known public key. Addresses get numbers, the same one everywhere, so that a reader can
still follow them.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator

from udpring.tunnel import keys

__all__ = ["Redactor", "encodings"]

SECRET = "(secret)"
KEY = "(key)"
REMOVED = "(redacted)"

_BASE64_KEY = re.compile(r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{43}=?(?![A-Za-z0-9+/_=-])")
_HEX_KEY = re.compile(r"(?<![0-9A-Fa-f])(?:[0-9A-Fa-f]{2}[:\s]?){31}[0-9A-Fa-f]{2}(?![0-9A-Fa-f])")
_MAC = re.compile(r"(?<![0-9A-Fa-f:])(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}(?![0-9A-Fa-f:])")
_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.])")
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*[0-9A-Fa-f:](?![\w:])")
_SETTING = re.compile(r"\s*([A-Za-z]+)\s*=\s*(.*?)\s*$")
_NAMES_NOBODY = frozenset({"0.0.0.0", "127.0.0.1", "::", "::1"})
_HARMLESS = frozenset(
    {
        "address", "allowedips", "cipher", "dns", "endpoint", "fwmark", "listenport", "mtu", "offload",
        "persistentkeepalive", "publickey", "saveconfig", "table",
    }
)  # fmt: skip
"""Settings of a configuration whose values are kept. Commands may hold passwords."""


def encodings(secret: bytes) -> Iterator[str]:
    """The texts by which a key may appear: base64, base64 for URLs, base32, hexadecimal, with separators."""
    for text in (base64.b64encode(secret).decode(), base64.urlsafe_b64encode(secret).decode()):
        yield text
        yield text.rstrip("=")
    yield base64.b32encode(secret).decode().rstrip("=")
    for separator in ("", ":", " "):
        yield secret.hex(separator) if separator else secret.hex()


class Redactor:
    """``public``: keys that may stay. ``addresses``: whether addresses, host names and domains go too."""

    def __init__(self, *, addresses: bool = False) -> None:
        self._addresses = addresses
        self._public: set[bytes] = set()
        self._secrets: dict[str, None] = {}
        self._numbers: dict[str, dict[str, str]] = {}
        self._hosts: dict[str, str] = {}

    def add_secrets(self, secrets: Iterable[bytes | None]) -> None:
        """They are removed from all later texts."""
        for secret in secrets:
            if secret:
                self._secrets.update(dict.fromkeys(encodings(secret)))
                self._public.discard(secret)

    def add_public(self, public: Iterable[bytes]) -> None:
        """They stay."""
        self._public.update(public)

    def text(self, text: str) -> str:
        """The text without secrets, and without addresses where that is wanted."""
        lowered = text.lower()
        for secret in self._secrets:
            if secret.lower() in lowered:
                text = re.sub(re.escape(secret), SECRET, text, flags=re.IGNORECASE)
        text = _HEX_KEY.sub(lambda match: self._key(match[0], _from_hex), text)
        text = _BASE64_KEY.sub(lambda match: self._key(match[0], _from_base64), text)
        if not self._addresses:
            return text
        for host, name in sorted(self._hosts.items(), key=lambda each: -len(each[0])):
            text = re.sub(rf"(?<![\w.-]){re.escape(host)}(?![\w-])", name, text, flags=re.IGNORECASE)
        text = _MAC.sub(lambda match: self._numbered("mac", match[0].lower()), text)
        text = _IPV6.sub(lambda match: self._address(match[0]), text)
        return _IPV4.sub(lambda match: self._address(match[0]), text)

    def configuration(self, text: str) -> str:
        """A wg-quick file, also one with errors. Only the values of settings that cannot be secret stay.
        Comments go."""
        return self.text("\n".join(map(self._line, text.splitlines())) + "\n")

    def _line(self, line: str) -> str:
        bare = line.strip()
        if not bare or (bare.startswith("[") and bare.endswith("]") and len(bare) < 32):
            return bare
        if bare.startswith("#"):
            return "# (comment)"
        setting = _SETTING.match(line.partition("#")[0])
        if setting is None:
            return f"(a line of {len(bare)} characters)"
        name, value = setting.groups()
        if name.lower() not in _HARMLESS:
            return f"{name} = {REMOVED}"
        if name.lower() in ("endpoint", "dns"):
            for word in value.split(","):
                self._learn_host(word.strip())
        return f"{name} = {value}"

    def _learn_host(self, word: str) -> None:
        """A host name with or without a port, or a domain."""
        host = word if word.count(":") > 1 else word.partition(":")[0]
        if host and not host.startswith("[") and _ip(host) is None:
            self._hosts.setdefault(host, self._numbered("host", host.lower()))

    def _key(self, text: str, decode: Callable[[str], bytes | None]) -> str:
        found = decode(text)
        return text if found is None or found in self._public else KEY

    def _address(self, text: str) -> str:
        address = _ip(text)
        if address is None or str(address) in _NAMES_NOBODY:
            return text
        return self._numbered(f"ip{address.version}", str(address))

    def _numbered(self, kind: str, thing: str) -> str:
        numbers = self._numbers.setdefault(kind, {})
        return numbers.setdefault(thing, f"{kind}-{len(numbers) + 1}")


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _from_base64(text: str) -> bytes | None:
    standard = text.rstrip("=").translate(str.maketrans("-_", "+/")) + "="
    try:
        return base64.b64decode(standard, validate=True)
    except ValueError:
        return None


def _from_hex(text: str) -> bytes | None:
    digits = re.sub(r"[:\s]", "", text)
    return bytes.fromhex(digits) if len(digits) == keys.HEX_LENGTH else None
