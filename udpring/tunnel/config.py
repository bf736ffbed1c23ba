"""The configuration of a node: ``wg-quick``'s file format as frozen values.

``Config.load`` and ``Config.loads`` read a configuration, ``Config.dumps`` writes one. Reading the written
text gives an equal configuration. ``config_parser`` parses the text. The rules of single values are in
``__post_init__`` here, so they also hold for a configuration that a program builds.

No repr shows a secret. ``dumps`` writes secrets, because the file needs them.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from udpring.errors import ConfigError
from udpring.records import record
from udpring.tunnel.keys import KEY_LENGTH, to_base64
from udpring.wireguard.cipher import Cipher

__all__ = [
    "INTERFACE_NAME",
    "MAX_FILE_SIZE",
    "Cipher",
    "Config",
    "Endpoint",
    "IPAddress",
    "InterfaceAddress",
    "InterfaceConfig",
    "Network",
    "PeerConfig",
    "locate",
]

IPAddress: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
InterfaceAddress: TypeAlias = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_FILE_SIZE = 64 * 1024 * 1024
"""Bytes of a configuration. 130 000 prefixes take under 5 MB."""

MAX_ENDPOINTS = 8
"""Endpoints of one peer."""

MAX_NAME = 128
"""Characters of a peer's name."""

INTERFACE_NAME = re.compile(r"[a-zA-Z0-9_=+.-]{1,15}")
"""Interface names that ``wg-quick`` accepts (15 is the kernel's IFNAMSIZ - 1)."""

CONFIG_DIRECTORY = Path("/etc/wireguard")

MIN_MTU = 68  # RFC 791
MAX_MTU = 65535

BLANKS = " \t\r\v\f"
"""The blanks inside a line: ASCII only, as in wg."""

# The characters that end a line or begin a comment: a value with one cannot be written to the file.
_UNWRITABLE = re.compile(r"[\n\r\0#]")
_TABLE = re.compile(r"[A-Za-z0-9_.-]{1,32}")
_HOST_LABELS = re.compile(r"[\w.-]+")
_DOTTED_DIGITS = re.compile(r"[0-9.]+")
SCOPE = re.compile(r"[^\s/%\[\]#,]{1,15}")
# "~" makes it a routing domain of systemd-resolved: its names are asked for here, and it completes none.
_SEARCH_DOMAIN = re.compile(r"~?[\w.-]+", re.ASCII)


def _require(good: bool, message: str, cure: str = "", text: str = "") -> None:
    if not good:
        raise ConfigError(message, text=text, cure=cure)


def _require_key(key: bytes | None, name: str) -> None:
    if key is not None:
        _require(
            isinstance(key, bytes) and len(key) == KEY_LENGTH,
            f"{name} is not a key of {KEY_LENGTH} bytes",
            "udpring.keys.from_base64 makes one of the usual text",
        )


def _require_range(value: int, most: int, name: str, least: int = 0) -> None:
    _require(
        isinstance(value, int) and least <= value <= most,
        f"{name} is not from {least} to {most}",
        text=str(value),
    )


def check_table(table: str) -> None:
    """Raises ConfigError where the text cannot name a routing table."""
    named = _TABLE.fullmatch(table) is not None
    _require(
        named and (not table.isdecimal() or int(table) <= 0xFFFFFFFF),
        "not a routing table",
        "'auto', 'off', or a table's number or name",
        table,
    )


def check_search_domain(domain: str) -> None:
    """Raises ConfigError where the text is no search domain of a resolver."""
    _require(
        _SEARCH_DOMAIN.fullmatch(domain) is not None,
        "neither an address nor a search domain",
        "1.1.1.1, fd00::53, example.org, ~corp.example",
        domain,
    )


def check_hook(command: str) -> None:
    """Raises ConfigError where a line of the file cannot hold the command."""
    _require(
        command.strip(BLANKS) == command != "" and not _UNWRITABLE.search(command),
        "the command is empty, starts or ends with a blank, or contains '#', NUL or a newline",
        "put it into a script",
        command,
    )


@record
class Endpoint:
    """Where a peer listens: a host and a port.

    ``host`` is an IPv4 address, an IPv6 address (without brackets, perhaps with ``%scope``) or a name. A name
    is resolved when it is used. Raises ConfigError for another host, and for port 0.
    """

    host: str
    port: int

    def __post_init__(self) -> None:
        _require_range(self.port, 0xFFFF, "the endpoint's port", least=1)
        host, percent, scope = self.host.partition("%")
        if ":" in self.host:
            try:
                socket.inet_pton(socket.AF_INET6, host)
            except (OSError, ValueError):
                raise ConfigError("the endpoint's host is not an IPv6 address", text=self.host) from None
            good_scope = bool(SCOPE.fullmatch(scope)) if percent else True
            _require(good_scope, "the endpoint's scope is not an interface", "fe80::1%eth0", self.host)
        elif _DOTTED_DIGITS.fullmatch(self.host):
            try:
                socket.inet_pton(socket.AF_INET, self.host)
            except (OSError, ValueError):
                raise ConfigError("the endpoint's host is not an IPv4 address", text=self.host) from None
        else:
            self._require_name()

    def _require_name(self) -> None:
        good = len(self.host) <= 253 and _HOST_LABELS.fullmatch(self.host) is not None
        if good:
            try:
                self.host.encode("idna")
            except UnicodeError:
                good = False
        _require(
            good, "the endpoint's host is neither an address nor a host name", "host.example:51820", self.host
        )

    @property
    def address(self) -> IPAddress | None:
        """The address in ``host``, with its scope. None where it is a name."""
        if ":" in self.host or _DOTTED_DIGITS.fullmatch(self.host):
            return ipaddress.ip_address(self.host)
        return None

    @property
    def numeric(self) -> bool:
        """Whether ``host`` is an address."""
        return self.address is not None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@record
class InterfaceConfig:
    """The ``[Interface]`` section.

    listen_port: 0 lets the kernel choose.
    fwmark: 0 is off.
    mtu: None computes it from the endpoints' routes.
    table: ``auto``, ``off``, or the number or name of a routing table.
    offload: whether peers get trains (UDP_SEGMENT). None: unless this kernel is known to damage them.
    pre_up, post_up, pre_down, post_down: shell commands, in which ``%i`` is the interface's name. Only
        ``udpring up`` and ``udpring down`` run them, never ``Node``.
    """

    private_key: bytes | None = field(default=None, repr=False)
    listen_port: int = 0
    fwmark: int = 0
    addresses: tuple[InterfaceAddress, ...] = ()
    dns: tuple[IPAddress, ...] = ()
    dns_search: tuple[str, ...] = ()
    mtu: int | None = None
    table: str = "auto"
    pre_up: tuple[str, ...] = ()
    post_up: tuple[str, ...] = ()
    pre_down: tuple[str, ...] = ()
    post_down: tuple[str, ...] = ()
    save_config: bool = False
    offload: bool | None = None

    def __post_init__(self) -> None:
        _require_key(self.private_key, "PrivateKey")
        _require_range(self.listen_port, 0xFFFF, "ListenPort")
        _require_range(self.fwmark, 0xFFFFFFFF, "FwMark")
        if self.mtu is not None:
            _require_range(self.mtu, MAX_MTU, "MTU", least=MIN_MTU)
        check_table(self.table)
        for domain in self.dns_search:
            check_search_domain(domain)
        for hooks in (self.pre_up, self.post_up, self.pre_down, self.post_down):
            for hook in hooks:
                check_hook(hook)


@record
class PeerConfig:
    """One ``[Peer]`` section.

    persistent_keepalive: seconds; 0 is off.
    allowed_ips: without host bits and duplicates, after the ``+`` and ``-`` prefixes of the file were applied
        in order.
    cipher: must be the same at the peer. Only udpring speaks another than the default (docs/aes-256-gcm.md).
    name: for people, from ``# friendly_name = x`` or the first comment of the section.
    offload: whether the peer gets trains (UDP_SEGMENT). None: as the interface's setting says.
    fallbacks: further endpoints, tried in order where the peer does not answer at ``endpoint``.
    """

    public_key: bytes
    preshared_key: bytes | None = field(default=None, repr=False)
    allowed_ips: tuple[Network, ...] = ()
    endpoint: Endpoint | None = None
    persistent_keepalive: int = 0
    name: str = ""
    cipher: Cipher = Cipher.CHACHA20_POLY1305
    fallbacks: tuple[Endpoint, ...] = ()
    offload: bool | None = None

    def __post_init__(self) -> None:
        _require(self.public_key is not None, "the peer has no PublicKey")
        _require_key(self.public_key, "PublicKey")
        _require_key(self.preshared_key, "PresharedKey")
        _require_range(self.persistent_keepalive, 0xFFFF, "PersistentKeepalive")
        _require(
            isinstance(self.cipher, Cipher),
            "Cipher is not one of udpring.Cipher",
            f"there are {', '.join(Cipher)}",
            str(self.cipher),
        )
        _require(
            len(set(self.allowed_ips)) == len(self.allowed_ips),
            "AllowedIPs has a prefix twice",
            "leave one of them",
        )
        _require(
            self.endpoint is not None or not self.fallbacks,
            "the peer has fallbacks and no endpoint",
            "make the first fallback its endpoint",
        )
        _require(
            len(self.endpoints) <= MAX_ENDPOINTS,
            f"the peer has more than {MAX_ENDPOINTS} endpoints",
            "leave the best ones, or give several addresses one name",
        )
        _require(
            self.name.strip() == self.name and self.name.isprintable() and len(self.name) <= MAX_NAME,
            f"a peer's name has control characters, blanks at an end, or more than {MAX_NAME} characters",
            text=self.name[:MAX_NAME],
        )

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """All endpoints in the order in which they are tried. Empty: none is known."""
        return () if self.endpoint is None else (self.endpoint, *self.fallbacks)


@dataclass(frozen=True, slots=True)
class Config:
    """A node's configuration. Raises ConfigError when two peers have one public key.

    file: the file it was read from.
    warnings: lines about legal settings that are probably mistakes (``FILE:LINE:COLUMN: text``).

    Comparisons ignore both.
    """

    interface: InterfaceConfig = field(default_factory=InterfaceConfig)
    peers: tuple[PeerConfig, ...] = ()
    file: str = field(default="<config>", compare=False)
    warnings: tuple[str, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        seen: set[bytes] = set()
        for peer in self.peers:
            _require(
                peer.public_key not in seen,
                "two peers have one PublicKey",
                "merge them into one [Peer]",
                to_base64(peer.public_key),
            )
            seen.add(peer.public_key)

    @classmethod
    def loads(cls, text: str, file: str = "<config>") -> Config:
        """Reads the text of a configuration. Errors name it by ``file``.

        Raises ConfigError for the first error, with line and column.
        """
        from udpring.tunnel import config_parser  # noqa: PLC0415 - it builds on the classes above

        config, errors = config_parser.parse(text, file)
        if config is None:
            raise errors[0]
        return config

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Config:
        """Reads a file. Warns where everybody may read it. Raises ConfigError also where it cannot be
        read."""
        text, warnings = read(path)
        config = cls.loads(text, file=os.fspath(path))
        return cls(config.interface, config.peers, config.file, warnings + config.warnings)

    def require_private_key(self) -> bytes:
        """The private key. Raises ConfigError where there is none."""
        if self.interface.private_key is None:
            raise ConfigError(
                "[Interface] has no PrivateKey",
                file=self.file,
                cure="make one: udpring genkey",
            )
        return self.interface.private_key

    def require_private_key_or_hook(self) -> None:
        """Raises ConfigError where there is neither a private key nor a PostUp that may set one."""
        if not self.interface.post_up:
            self.require_private_key()

    def dumps(self) -> str:
        """The configuration as text, with secrets. Write it to a file that only its owner can read."""
        return "\n".join(_dump(self))


def read(path: str | os.PathLike[str]) -> tuple[str, tuple[str, ...]]:
    """The text of a configuration file, and the warnings about the file. Raises ConfigError where it cannot
    be read."""
    name = os.fspath(path)
    try:
        with Path(path).open("rb") as opened:
            data = opened.read(MAX_FILE_SIZE + 1)
            mode = os.fstat(opened.fileno()).st_mode
            exposed = stat.S_ISREG(mode) and mode & Path(path).resolve().parent.stat().st_mode & stat.S_IRWXO
    except FileNotFoundError:
        raise ConfigError(
            "there is no such file", file=name, cure="give the path of a wg-quick configuration"
        ) from None
    except (OSError, ValueError) as failed:
        what = os.strerror(failed.errno) if isinstance(failed, OSError) and failed.errno else str(failed)
        raise ConfigError(
            f"cannot be read: {what}", file=name, cure="check the path and its rights"
        ) from None
    if len(data) > MAX_FILE_SIZE:
        raise ConfigError(f"has more than {MAX_FILE_SIZE} bytes", file=name, cure="is it a configuration?")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:2]:
        raise ConfigError(
            "is UTF-16 or UTF-32 text, a configuration is UTF-8",
            file=name,
            cure=f"iconv -f UTF-16 -t UTF-8 {name} > NEW, or save it as UTF-8",
        )
    # Comments and commands may be in any encoding: bytes that are not UTF-8 pass through.
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    return text, (f"{name}: is world accessible (chmod 600 it, it holds keys)",) if exposed else ()


def locate(name: str) -> tuple[str, Path]:
    """The name and the file of an interface, from either, as ``wg-quick``: ``wg0`` is
    ``/etc/wireguard/wg0.conf``.

    Raises ConfigError where the file name is not an interface name.
    """
    if INTERFACE_NAME.fullmatch(name):
        return name, CONFIG_DIRECTORY / f"{name}.conf"
    path = Path(name)
    if path.suffix != ".conf" or not INTERFACE_NAME.fullmatch(path.stem):
        raise ConfigError(
            "the file name is not an interface name",
            file=name,
            cure="call it INTERFACE.conf, 15 characters at most",
        )
    return path.stem, path


def _join(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _dump(config: Config) -> Iterable[str]:
    interface = config.interface
    yield "[Interface]"
    if interface.private_key is not None:
        yield f"PrivateKey = {to_base64(interface.private_key)}"
    if interface.listen_port:
        yield f"ListenPort = {interface.listen_port}"
    if interface.fwmark:
        yield f"FwMark = 0x{interface.fwmark:x}"
    if interface.addresses:
        yield f"Address = {_join(interface.addresses)}"
    if interface.dns or interface.dns_search:
        yield f"DNS = {_join((*interface.dns, *interface.dns_search))}"
    if interface.mtu is not None:
        yield f"MTU = {interface.mtu}"
    if interface.table != "auto":
        yield f"Table = {interface.table}"
    for key, hooks in (
        ("PreUp", interface.pre_up),
        ("PostUp", interface.post_up),
        ("PreDown", interface.pre_down),
        ("PostDown", interface.post_down),
    ):
        for hook in hooks:
            yield f"{key} = {hook}"
    if interface.save_config:
        yield "SaveConfig = true"
    if interface.offload is not None:
        yield f"Offload = {'on' if interface.offload else 'off'}"
    for peer in config.peers:
        yield ""
        yield "[Peer]"
        if peer.name:
            yield f"# friendly_name = {peer.name}"
        yield f"PublicKey = {to_base64(peer.public_key)}"
        if peer.preshared_key is not None:
            yield f"PresharedKey = {to_base64(peer.preshared_key)}"
        if peer.allowed_ips:
            yield f"AllowedIPs = {_join(peer.allowed_ips)}"
        for endpoint in peer.endpoints:
            yield f"Endpoint = {endpoint}"
        if peer.persistent_keepalive:
            yield f"PersistentKeepalive = {peer.persistent_keepalive}"
        if peer.cipher is not Cipher.CHACHA20_POLY1305:
            yield f"Cipher = {peer.cipher}"
        if peer.offload is not None:
            yield f"Offload = {'on' if peer.offload else 'off'}"
    yield ""
