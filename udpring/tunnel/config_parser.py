"""The text of a ``wg-quick`` file -> ``Config``, with the place of everything that is wrong.

Flow: 1. the text is cut into lines, a ``#`` begins a comment; 2. a section line opens a section, a ``key =
value`` line goes to that section's rule for its key; 3. a line that is wrong is noted and the next one
read, so that a checker can show all of them; 4. sections are closed into ``InterfaceConfig`` and
``PeerConfig``.

As ``wg`` does, sections and keys are case-insensitive and blanks inside a key or a value do not count,
except in the commands and lists that ``wg-quick`` reads. An error never holds the text of a private or
preshared key, nor of a line that could be a piece of one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias

from udpring.errors import ConfigError
from udpring.tunnel.config import (
    BLANKS,
    MAX_MTU,
    MAX_NAME,
    MIN_MTU,
    Config,
    InterfaceConfig,
    Network,
    PeerConfig,
    check_hook,
    check_search_domain,
    check_table,
)
from udpring.tunnel.config_values import (
    BadValueError,
    Value,
    parse_boolean,
    parse_cipher,
    parse_endpoint,
    parse_fwmark,
    parse_interface_address,
    parse_keepalive,
    parse_key,
    parse_network,
    parse_number,
    parse_offload,
    parse_port,
    parse_scoped_ip,
    without_blanks,
)

__all__ = ["MAX_ERRORS", "parse"]

MAX_ERRORS = 100
"""After this many wrong lines, the parser stops."""

_NAME_COMMENT = re.compile(r"friendly_name\s*=\s*(.*)", re.IGNORECASE)
_ASSIGNMENT = re.compile(r"[A-Za-z_]+\s*=")
_KEY_LIKE = re.compile(r"[A-Za-z0-9+/]{20,}=?")
_DOTTED_DIGITS = re.compile(r"[0-9.]+")
# A key name that may be shown: a longer one, or one with a digit, may be part of a secret key.
_SHOWABLE = re.compile(r"[A-Za-z_ ]{1,20}")
_MAX_SHOWN = 80
# Two lines that were joined: the second may hold a key.
_NAMES_SECRET = re.compile(r"privatekey|presharedkey", re.IGNORECASE)


@dataclass(slots=True)
class _Section:
    """The contents of an open section: argument names of its dataclass -> values."""

    kind: str
    line: int
    fields: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    """Key -> the line of its last occurrence."""
    networks: dict[Network, tuple[int, int]] = field(default_factory=dict)
    """AllowedIPs in order -> (line, column)."""
    name: str = ""
    named: bool = False
    """From ``friendly_name``, which has precedence over a plain comment."""
    failed: bool = False


class _Parser:
    def __init__(self, file: str) -> None:
        self.file = file
        self.errors: list[ConfigError] = []
        self.warnings: list[str] = []
        self.section: _Section | None = None
        self.interface = _Section("Interface", 0)
        self.peers: list[PeerConfig] = []
        self.peer_lines: dict[bytes, int] = {}
        self.prefix_places: dict[Network, tuple[int, int]] = {}

    # --- lines ---

    def run(self, text: str) -> Config | None:
        for number, line in enumerate(text.split("\n"), 1):
            self._line(number, line)
            if len(self.errors) >= MAX_ERRORS:
                break
        self._close_section()
        interface = self._build_interface()
        if self.errors or interface is None:
            return None
        return Config(interface, tuple(self.peers), self.file, tuple(self.warnings))

    def _line(self, number: int, line: str) -> None:
        code, hash_sign, comment = line.partition("#")
        stripped = code.strip(BLANKS)
        column = len(code) - len(code.lstrip(BLANKS)) + 1
        if stripped.startswith("["):
            self._open_section(number, column, stripped)
        elif stripped:
            self._setting(number, column, stripped)
        if hash_sign and self.section is not None and self.section.kind == "Peer":
            self._comment(self.section, comment, alone=not stripped or stripped.startswith("["))

    def _comment(self, section: _Section, comment: str, alone: bool) -> None:
        text = comment.strip().lstrip("#").strip()
        friendly = _NAME_COMMENT.fullmatch(text)
        if friendly:
            text = friendly.group(1)
        elif section.name or not alone or _ASSIGNMENT.match(text) or _KEY_LIKE.search(text):
            return  # a commented-out setting is no name, and a key may be a secret
        if section.named and friendly:
            return
        clean = "".join(c if c.isprintable() else " " for c in text).strip()
        section.name = clean[:MAX_NAME].strip()
        section.named = bool(friendly)

    def _open_section(self, number: int, column: int, text: str) -> None:
        self._close_section()
        kind = without_blanks(text).lower()
        if kind == "[interface]":
            if self.interface.line:
                self.warn(
                    number, column, f"a second [Interface] (the first is on line {self.interface.line})"
                )
            self.interface.line = self.interface.line or number
            self.section = self.interface
        elif kind == "[peer]":
            self.section = _Section("Peer", number)
        else:
            self.section = _Section("", number, failed=True)
            near = difflib.get_close_matches(kind.strip("[]"), ["interface", "peer"], 1)
            cure = f"did you mean [{near[0].capitalize()}]?" if near else "[Interface] or [Peer]"
            shown = text if _SHOWABLE.fullmatch(text.strip("[]")) else ""
            self._error(number, column, "unknown section", shown, cure)

    def _setting(self, number: int, column: int, text: str) -> None:
        raw_key, equals, raw_value = text.partition("=")
        key = without_blanks(raw_key)
        shown = raw_key.strip(BLANKS) if _SHOWABLE.fullmatch(raw_key.strip(BLANKS)) else ""
        section = self.section
        if section is None:
            self._error(
                number, column, "a line before any section", shown, "begin with [Interface] or [Peer]"
            )
        elif section.kind:
            if not equals:
                self._error(number, column, "not 'key = value'", shown, "a comment begins with '#'")
                section.failed = True
                return
            rule = _RULES[section.kind].get(key.lower())
            if rule is None:
                self._error(number, column, "unknown key", shown, _suggest(key, section.kind))
                section.failed = True
                return
            value_text = raw_value.strip(BLANKS)
            lead = len(raw_value) - len(raw_value.lstrip(BLANKS)) if value_text else 0
            value = Value(number, column + len(raw_key) + 1 + lead, value_text)
            self._apply(section, rule, value)

    def _apply(self, section: _Section, rule: _Rule, value: Value) -> None:
        try:
            if not value.text and not rule.may_be_empty:
                raise BadValueError("no value", f"{rule.key} = ...")
            if "\0" in value.text:
                raise BadValueError("a NUL character", "is the file text?", secret=True)
            before = section.lines.get(rule.key)
            if before is not None and not rule.repeats:
                if rule.key == "PublicKey":
                    raise BadValueError(
                        f"a second PublicKey (the first is on line {before})", "is a [Peer] line missing?"
                    )
                self.warn(
                    value.line,
                    value.column,
                    f"{rule.key} is set again (first on line {before}). The last value counts",
                )
            section.lines[rule.key] = value.line
            rule.apply(self, section, value)
        except BadValueError as wrong:
            section.failed = True
            at = wrong.value or value
            self._error(
                at.line,
                at.column,
                f"{rule.key}: {wrong.message}",
                "" if wrong.secret else at.text,
                wrong.cure,
            )
        except ConfigError as wrong:  # the rules in the dataclasses
            section.failed = True
            self._error(value.line, value.column, f"{rule.key}: {wrong.message}", wrong.text, wrong.cure)

    # --- sections ---

    def _close_section(self) -> None:
        section, self.section = self.section, None
        if section is None or section.kind != "Peer":
            return
        if "PublicKey" not in section.lines:
            self._error(
                section.line, 1, "this [Peer] has no PublicKey", "", "add the peer's: PublicKey = ..."
            )
            return
        if section.failed:
            return
        public_key = section.fields["public_key"]
        assert isinstance(public_key, bytes)
        before = self._earlier(section, public_key)
        self.peer_lines[public_key] = section.lines["PublicKey"]
        for network, place in section.networks.items():
            other = self.prefix_places.setdefault(network, place)
            if other != place:
                self.warn(*place, f"AllowedIPs {network} moves here from the peer of line {other[0]}")
                self.prefix_places[network] = place
        given = {**before, **section.fields, "allowed_ips": tuple(section.networks)}
        if section.name:
            given["name"] = section.name
        try:
            peer = PeerConfig(**given)
        except ConfigError as wrong:
            self._error(section.line, 1, wrong.message, wrong.text, wrong.cure)
        else:
            self.peers.append(peer)

    def _earlier(self, section: _Section, public_key: bytes) -> dict[str, Any]:
        """The settings of an earlier section of this peer, removed from ``peers``. As in wg, they hold where
        this section is silent, except for AllowedIPs."""
        line = self.peer_lines.get(public_key)
        if line is None:
            return {}
        self.warn(
            section.lines["PublicKey"],
            1,
            f"a second section for the peer of line {line}. Its AllowedIPs replace the earlier ones",
        )
        (earlier,) = [peer for peer in self.peers if peer.public_key == public_key]
        self.peers.remove(earlier)
        for network in earlier.allowed_ips:
            self.prefix_places.pop(network, None)
        return {each.name: getattr(earlier, each.name) for each in fields(earlier)}

    def _build_interface(self) -> InterfaceConfig | None:
        try:
            return InterfaceConfig(**self.interface.fields)
        except ConfigError as wrong:
            self._error(self.interface.line, 1, wrong.message, wrong.text, wrong.cure)
            return None

    # --- reports ---

    def _error(self, line: int, column: int, message: str, text: str, cure: str) -> None:
        if _NAMES_SECRET.search(without_blanks(text)):
            text = ""
        shown = text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."
        self.errors.append(
            ConfigError(message, file=self.file, line=line, column=column, text=shown, cure=cure)
        )

    def warn(self, line: int, column: int, text: str) -> None:
        if len(self.warnings) < MAX_ERRORS:
            self.warnings.append(f"{self.file}:{line}:{column}: {text}")


# --- the keys of each section ---

_Apply: TypeAlias = Callable[[_Parser, _Section, Value], None]


@dataclass(frozen=True, slots=True)
class _Rule:
    key: str
    apply: _Apply
    repeats: bool = False
    """Whether another line adds to the first. Otherwise the last one counts."""
    may_be_empty: bool = False
    """As in wg-quick, which accepts its own keys without a value."""


def _into(name: str, parse: Callable[[Value], object]) -> _Apply:
    """A rule that sets one field of the section's dataclass."""

    def apply(_: _Parser, section: _Section, value: Value) -> None:
        section.fields[name] = parse(value)

    return apply


def _append(section: _Section, name: str, item: object) -> None:
    section.fields[name] = (*section.fields.get(name, ()), item)


def _apply_addresses(_: _Parser, section: _Section, value: Value) -> None:
    for word in value.words():
        _append(section, "addresses", parse_interface_address(word))


def _apply_dns(_: _Parser, section: _Section, value: Value) -> None:
    for word in value.words():
        if ":" in word.text or _DOTTED_DIGITS.fullmatch(word.text):
            _append(section, "dns", parse_scoped_ip(word))
        else:
            check_search_domain(word.text)
            _append(section, "dns_search", word.text)


def _hook(name: str) -> _Apply:
    def apply(_: _Parser, section: _Section, value: Value) -> None:
        if not value.text:
            return
        check_hook(value.text)
        _append(section, name, value.text)

    return apply


def _parse_mtu(value: Value) -> int | None:
    return parse_number(value, MIN_MTU, MAX_MTU) if value.text else None


def _apply_table(_: _Parser, section: _Section, value: Value) -> None:
    text = value.compact or "auto"
    table = text.lower() if text.lower() in ("off", "auto") else text
    check_table(table)
    section.fields["table"] = table


def _apply_endpoint(parser: _Parser, section: _Section, value: Value) -> None:
    endpoint, bare = parse_endpoint(value)
    if "endpoint" not in section.fields:
        section.fields["endpoint"] = endpoint
        section.fields["fallbacks"] = ()
    elif endpoint not in (section.fields["endpoint"], *section.fields["fallbacks"]):
        _append(section, "fallbacks", endpoint)
    if bare:
        cure = f"write {endpoint}"
        parser.warn(value.line, value.column, f"Endpoint is an IPv6 address without brackets ({cure})")


def _apply_allowed_ips(parser: _Parser, section: _Section, value: Value) -> None:
    if not value.text:
        return
    for item in value.items():
        sign = item.text[:1] if item.text[:1] in ("+", "-") else ""
        bare = Value(item.line, item.column + len(sign), item.text[len(sign) :])
        network, had_host_bits = parse_network(bare)
        if had_host_bits:
            parser.warn(
                bare.line, bare.column, f"AllowedIPs {bare.text} has host bits set: {network} is used"
            )
        if sign == "-":
            if section.networks.pop(network, None) is None:
                parser.warn(
                    item.line,
                    item.column,
                    f"AllowedIPs {item.text} removes a prefix that is not listed before",
                )
        else:
            section.networks.setdefault(network, (bare.line, bare.column))


_RULES: dict[str, dict[str, _Rule]] = {
    kind: {rule.key.lower(): rule for rule in rules}
    for kind, rules in {
        "Interface": [
            _Rule("PrivateKey", _into("private_key", lambda value: parse_key(value, secret=True))),
            _Rule("ListenPort", _into("listen_port", lambda value: parse_port(value, value.compact, 0))),
            _Rule("FwMark", _into("fwmark", parse_fwmark)),
            _Rule("Address", _apply_addresses, repeats=True, may_be_empty=True),
            _Rule("DNS", _apply_dns, repeats=True, may_be_empty=True),
            _Rule("MTU", _into("mtu", _parse_mtu), may_be_empty=True),
            _Rule("Table", _apply_table, may_be_empty=True),
            _Rule("PreUp", _hook("pre_up"), repeats=True, may_be_empty=True),
            _Rule("PostUp", _hook("post_up"), repeats=True, may_be_empty=True),
            _Rule("PreDown", _hook("pre_down"), repeats=True, may_be_empty=True),
            _Rule("PostDown", _hook("post_down"), repeats=True, may_be_empty=True),
            _Rule("SaveConfig", _into("save_config", parse_boolean)),
            _Rule("Offload", _into("offload", parse_offload)),
        ],
        "Peer": [
            _Rule("PublicKey", _into("public_key", lambda value: parse_key(value, secret=False))),
            _Rule("PresharedKey", _into("preshared_key", lambda value: parse_key(value, secret=True))),
            _Rule("AllowedIPs", _apply_allowed_ips, repeats=True, may_be_empty=True),
            _Rule("Endpoint", _apply_endpoint, repeats=True),
            _Rule("PersistentKeepalive", _into("persistent_keepalive", parse_keepalive)),
            _Rule("Cipher", _into("cipher", parse_cipher)),
            _Rule("Offload", _into("offload", parse_offload)),
        ],
    }.items()
}


def _suggest(key: str, kind: str) -> str:
    """The key that an unknown one probably stands for."""
    names = {rule.key.lower(): rule.key for rule in _RULES[kind].values()}
    near = difflib.get_close_matches(key.lower()[:64], names, 1)
    if near:
        return f"did you mean {names[near[0]]}?"
    other = "Peer" if kind == "Interface" else "Interface"
    if key.lower() in _RULES[other]:
        return f"{_RULES[other][key.lower()].key} belongs in [{other}]"
    return f"[{kind}] has {', '.join(names.values())}"


def parse(text: str, file: str) -> tuple[Config | None, tuple[ConfigError, ...]]:
    """The configuration, or None and every error (the first ``MAX_ERRORS``), in the order of the lines."""
    parser = _Parser(file)
    config = parser.run(text)
    return config, tuple(sorted(parser.errors, key=lambda error: (error.line, error.column)))
