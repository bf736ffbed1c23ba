"""``udpring.probe()``: which features work on this host, and why others do not. It tries them if possible.

It uses sockets on loopback, a ring, and a TUN device in a new network namespace (in the caller's without the
privilege to make one). Nothing is left behind.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from udpring._native import ffi, lib, reason, reason_text
from udpring.errors import HostError
from udpring.tunnel.ciphers import CIPHER_NUMBERS
from udpring.tunnel.handshake_probe import probe_handshake
from udpring.tunnel.namespaces import Namespaces
from udpring.tunnel.plane_values import TUN_OFFLOADS
from udpring.tunnel.refusals import require_descriptors
from udpring.udp.probe import UdpProbe, probe_udp
from udpring.udp.train_kernels import train_fault
from udpring.uring.probe import Feature, UringProbe, probe_uring
from udpring.wireguard.cipher import Cipher

__all__ = ["AeadProbe", "HostProbe", "Limits", "Missing", "System", "TunProbe", "probe"]

_TUN_NAME = "udpring%d"
"""The name of the trial device (native/tunnel/tun/tun_probe.c)."""
# linux/capability.h: the capabilities that udpring needs.
_CAPABILITIES = {12: "CAP_NET_ADMIN", 21: "CAP_SYS_ADMIN", 23: "CAP_SYS_NICE", 39: "CAP_BPF"}
# Flags that matter for the AEAD libraries and the checksums.
_CPU_FEATURES = (
    *("aes", "pclmulqdq", "avx", "avx2", "avx512f", "avx512ifma", "vaes", "vpclmulqdq"),
    *("pmull", "asimd", "sve"),
)
_CPU_FLAGS = {"x86_64": "flags"}
"""The line of /proc/cpuinfo that has them, where it is not "Features"."""
_SOCKET_BUFFER = 7 << 20
"""The buffer that a node requests (native/udp/socket.c). Exceeding the limits needs CAP_NET_ADMIN."""
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class _UpTool:
    """A program that ``udpring up`` may need. ``name``: the feature that needs it. Any one of ``programs``
    will do."""

    name: str
    programs: tuple[str, ...]
    effect: str
    package: str


_UP_TOOLS = (
    _UpTool("hooks", ("bash",), "`udpring up` fails where a file has PreUp, PostUp or the like", "bash"),
    _UpTool("DNS", ("resolvconf", "resolvectl"), "`udpring up` fails where a file has DNS", "openresolv"),
    _UpTool(
        "firewall",
        ("nft", "iptables-restore"),
        "a default route into the tunnel comes up without its firewall",
        "nftables",
    ),
    _UpTool("sysctl", ("sysctl",), "`udpring up` fails for a default route into the tunnel", "procps"),
)


@dataclass(frozen=True, slots=True)
class System:
    """``cpu_features``: flags that matter here. ``cpus``: the CPUs that this process may use."""

    kernel: str
    machine: str
    cpu: str
    cpus: int
    cpu_features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AeadProbe:
    """One cipher. ``library``: the one in use, empty if none works. ``why``: the libraries tried before it.
    ``libraries``: all of this build, each self-tested."""

    cipher: str
    library: str
    why: str
    libraries: tuple[Feature, ...]


@dataclass(frozen=True, slots=True)
class TunProbe:
    """``device``: this process can make one here. ``offloads``: the super-packets it accepts.
    ``multi_queue``: several workers can use it. ``steering``: the core chooses the queue of a flow."""

    device: Feature
    offloads: tuple[str, ...]
    multi_queue: Feature
    steering: Feature


@dataclass(frozen=True, slots=True)
class Limits:
    """``net.core.*`` and RLIMIT_MEMLOCK in bytes. ``io_uring_disabled``: 0 on, 1 for some, 2 off. None: this
    kernel lacks it, it cannot be read, or (memlock) there is no limit."""

    rmem_max: int | None
    wmem_max: int | None
    memlock: int | None
    io_uring_disabled: int | None
    open_files: int = -1
    """RLIMIT_NOFILE. -1: no limit."""
    open_files_why: str = ""
    """Why a node cannot open all its descriptors. Empty if it can."""


_NOT_TRIED = Feature("rootless", False, "not tried", 0)


@dataclass(frozen=True, slots=True)
class Missing:
    """A missing feature, its effect and the cure. ``fatal``: no node runs without it."""

    what: str
    effect: str
    cure: str
    fatal: bool = False


@dataclass(frozen=True, slots=True)
class HostProbe:
    """All results. ``missing`` lists the missing features."""

    version: str
    system: System
    uring: UringProbe
    udp: UdpProbe
    aead: tuple[AeadProbe, ...]
    tun: TunProbe
    capabilities: Mapping[str, bool]
    limits: Limits
    iproute2: Feature
    """Only for `udpring up` and nodes with addresses in their configuration."""
    up_tools: tuple[Feature, ...] = ()
    """Programs that `udpring up` may need, in the order of ``_UP_TOOLS``."""
    rootless: Feature = _NOT_TRIED
    """Whether a node can be attached to namespaces of its own, and which device it then has."""
    handshake: Feature = _NOT_TRIED
    """Whether handshakes can be computed."""

    @property
    def can_run_node(self) -> bool:
        """Whether a node comes up here."""
        return not any(each.fatal for each in self.missing)

    @property
    def missing(self) -> tuple[Missing, ...]:
        """The missing features, the worst first."""
        found = [*_missing_for_good(self), *_missing_speed(self)]
        return tuple(sorted(found, key=lambda each: not each.fatal))

    def as_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return {
            "udpring": self.version,
            "can_run_node": self.can_run_node,
            "missing": [asdict(each) for each in self.missing],
            "system": asdict(self.system),
            "uring": self.uring.as_dict(),
            "udp": self.udp.as_dict(),
            "aead": {
                each.cipher: {
                    "library": each.library,
                    "why": each.why,
                    "libraries": {library.name: library.as_dict() for library in each.libraries},
                }
                for each in self.aead
            },
            "tun": {
                "device": self.tun.device.as_dict(),
                "offloads": list(self.tun.offloads),
                "multi_queue": self.tun.multi_queue.as_dict(),
                "steering": self.tun.steering.as_dict(),
            },
            "capabilities": dict(self.capabilities),
            "limits": asdict(self.limits),
            "iproute2": self.iproute2.as_dict(),
            "handshake": self.handshake.as_dict(),
            "rootless": self.rootless.as_dict(),
            "up_tools": {each.name: each.as_dict() for each in self.up_tools},
        }


def probe() -> HostProbe:
    """Finds out which features work on this host, and why others do not. See ``HostProbe``.

    It takes some tenths of a second, and at most a second for each feature that hangs. It raises nothing: the
    result has the reason for each feature that does not work.
    """
    from udpring import __version__  # noqa: PLC0415 - the package imports this module

    return HostProbe(
        version=__version__,
        system=_system(),
        uring=probe_uring(),
        udp=probe_udp(),
        aead=tuple(_aead(cipher) for cipher in Cipher),
        tun=_tun(),
        capabilities=_capabilities(),
        limits=_limits(),
        iproute2=_iproute2(),
        up_tools=_up_tools(),
        rootless=_rootless(),
        handshake=probe_handshake(),
    )


# ---- finding ----


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def _system() -> System:
    text = _read(_PROC / "cpuinfo")
    machine = os.uname().machine
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    # Under qemu-user, the file is about the host's CPU, whose instructions this process cannot use.
    flags = re.search(rf"^{_CPU_FLAGS.get(machine, 'Features')}\s*:\s*(.+)$", text, re.MULTILINE)
    has = set(flags[1].replace("avx512_", "avx512").split()) if flags else set()
    return System(
        kernel=os.uname().release,
        machine=machine,
        cpu=model[1] if model else "",
        cpus=len(os.sched_getaffinity(0)),
        cpu_features=tuple(name for name in _CPU_FEATURES if name in has),
    )


def _aead(cipher: Cipher) -> AeadProbe:
    number = CIPHER_NUMBERS[cipher]
    chosen = lib.udpring_aead_chosen(number)
    libraries = []
    for which in range(lib.udpring_aead_count()):
        if lib.udpring_aead_cipher(which) == number:
            why = reason()
            code = lib.udpring_aead_selftest(which, why)
            result = reason_text(why) or "passed its self-test"
            libraries.append(Feature(_aead_name(which), code >= 0, result, max(0, -code)))
    return AeadProbe(
        cipher=str(cipher),
        library=_aead_name(chosen) if chosen >= 0 else "",
        why=ffi.string(lib.udpring_aead_why(number)).decode("utf-8", "replace"),
        libraries=tuple(libraries),
    )


def _aead_name(which: int) -> str:
    name: str = ffi.string(lib.udpring_aead_name(which)).decode()
    return name


def _tun() -> TunProbe:
    facts, why = ffi.new("struct udpring_tun_facts *"), reason()
    code = lib.udpring_tun_probe(facts, why)
    if code:
        text = reason_text(why).removeprefix(f"interface {_TUN_NAME}: ")
        none = "no device can be made"
        return TunProbe(
            Feature("device", False, text, -code),
            (),
            Feature("multi_queue", False, none, -code),
            Feature("steering", False, none, -code),
        )
    queues = reason_text(facts.queues_why) or "made two"
    steering = reason_text(facts.steer_why) or ("the device took it" if facts.steered else "not tried")
    return TunProbe(
        Feature("device", True, "made one" if facts.unseen else "made one, in this network namespace", 0),
        tuple(name for bit, name in TUN_OFFLOADS.items() if facts.offloads & bit),
        Feature("multi_queue", bool(facts.multi_queue), queues, 0),
        Feature("steering", bool(facts.steered), steering, 0),
    )


def _capabilities() -> dict[str, bool]:
    found = re.search(r"^CapEff:\s*([0-9a-fA-F]+)$", _read(_PROC / "self/status"), re.MULTILINE)
    have = int(found[1], 16) if found else 0
    return {name: bool(have >> bit & 1) for bit, name in _CAPABILITIES.items()}


def _number(path: str) -> int | None:
    text = _read(_PROC / "sys" / path).strip()
    return int(text) if text.isdecimal() else None


def _limits() -> Limits:
    memlock = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    return Limits(
        # Only the first network namespace shows these. They apply in the others too.
        rmem_max=_number("net/core/rmem_max"),
        wmem_max=_number("net/core/wmem_max"),
        memlock=None if memlock == resource.RLIM_INFINITY else memlock,
        io_uring_disabled=_number("kernel/io_uring_disabled"),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        open_files_why=_open_files_why(),
    )


def _open_files_why() -> str:
    try:
        require_descriptors()
    except HostError as refused:
        return str(refused)
    return ""


def _iproute2() -> Feature:
    where = shutil.which("ip")
    return Feature("iproute2", where is not None, where or "there is no program called ip", 0)


def _rootless() -> Feature:
    spaces = Namespaces()
    try:
        spaces.start("auto", _TUN_NAME, 1, True)
    except HostError as refused:
        return Feature("rootless", False, str(refused), refused.errno or 0)
    why = f"packet sockets, since there is no TUN device: {spaces.why}" if spaces.why else "a TUN device"
    spaces.close()
    return Feature("rootless", True, why, 0)


def _up_tools() -> tuple[Feature, ...]:
    """Finds the program of each of ``_UP_TOOLS``."""
    found = []
    for tool in _UP_TOOLS:
        places = filter(None, map(shutil.which, tool.programs))
        where = next(places, None)
        none = f"there is no program called {' or '.join(tool.programs)}"
        found.append(Feature(tool.name, where is not None, where or none, 0))
    return tuple(found)


# ---- drawing conclusions ----


def _missing_for_good(found: HostProbe) -> list[Missing]:
    missing = []
    if found.limits.open_files_why:
        missing.append(Missing("open files", "no node comes up", found.limits.open_files_why, True))
    if not found.tun.device:
        missing.append(Missing("a TUN device", "no node comes up", found.tun.device.reason, True))
    if not found.udp.tier:
        reasons = "; ".join(f"{tier.name}: {tier.reason}" for tier in found.udp.tiers)
        missing.append(Missing("a tier", "no datagram can be moved", reasons, True))
    if not found.handshake and found.handshake is not _NOT_TRIED:
        missing.append(Missing("handshakes", "no session begins", found.handshake.reason, True))
    for aead in found.aead:
        if not aead.library:
            default = aead.cipher == Cipher.CHACHA20_POLY1305
            effect = "no packet can be encrypted" if default else f"no peer can have Cipher = {aead.cipher}"
            missing.append(
                Missing(f"a library for {aead.cipher}", effect, f"install OpenSSL 3: {aead.why}", default)
            )
    return missing


def _missing_speed(found: HostProbe) -> list[Missing]:
    missing = []
    best = found.udp.tiers[0]
    if not best and found.udp.tier:
        effect = f"tier {found.udp.tier} is used instead of {best.name}"
        missing.append(Missing(f"tier {best.name}", effect, best.reason))
    fault = train_fault(found.system.kernel)
    for trains, effect, cure in (
        (
            found.udp.segment,
            "every datagram is sent on its own",
            fault.cure if fault else "Linux 4.18 or newer",
        ),
        (found.udp.gro, "every datagram is received on its own", "Linux 5.0 or newer"),
    ):
        if not trains:
            missing.append(Missing(trains.name, effect, f"{cure}: {trains.reason}"))
    if found.tun.device:
        missing += _missing_of_tun(found.tun)
    cpu = found.system.cpu_features
    chacha = found.aead[0]
    if "avx512ifma" in cpu and chacha.library == "openssl":
        libraries = {library.name: library for library in chacha.libraries}
        cure = "apt-get install libipsec-mb-dev, then build udpring again (pip install .)"
        if "ipsec-mb" in libraries and not libraries["ipsec-mb"]:
            cure = f"apt-get install libipsec-mb-dev: {libraries['ipsec-mb'].reason}"
        elif "ipsec-mb" in libraries:
            cure = f"unset UDPRING_AEAD: {chacha.why}"
        missing.append(Missing("ipsec-mb", "encryption costs twice as much as it has to", cure))
    if not found.capabilities["CAP_NET_ADMIN"]:
        missing += _missing_buffers(found.limits)
    if not found.iproute2:
        effect = "`udpring up` and nodes with addresses cannot set up their interface"
        missing.append(Missing("iproute2", effect, "apt-get install iproute2"))
    if not found.rootless and found.rootless is not _NOT_TRIED:
        effect = "`udpring run`, `udpring proxy` and rootless nodes do not start"
        missing.append(Missing("rootless nodes", effect, found.rootless.reason))
    for tool, has in zip(_UP_TOOLS, found.up_tools, strict=False):
        if not has:
            missing.append(
                Missing(" or ".join(tool.programs), tool.effect, f"apt-get install {tool.package}")
            )
    return missing


def _missing_of_tun(tun: TunProbe) -> list[Missing]:
    missing = []
    absent = [name for name in TUN_OFFLOADS.values() if name not in tun.offloads]
    if absent:
        effect = "each packet crosses the kernel on its own" if not tun.offloads else "UDP does so singly"
        missing.append(
            Missing(f"TUN offloads {', '.join(absent)}", effect, "Linux 6.2 or newer has all of them")
        )
    if not tun.multi_queue:
        missing.append(Missing("several TUN queues", "a node has one worker", tun.multi_queue.reason))
    elif not tun.steering:
        effect = (
            "with several workers, packets of a flow may change their order when it moves to another queue"
        )
        cure = f"give it CAP_BPF, or use one worker: {tun.steering.reason}"
        missing.append(Missing("queue steering", effect, cure))
    return missing


def _missing_buffers(limits: Limits) -> list[Missing]:
    missing = []
    for name, size in (("rmem_max", limits.rmem_max), ("wmem_max", limits.wmem_max)):
        if size is not None and size < _SOCKET_BUFFER:
            missing.append(
                Missing(
                    f"net.core.{name} of {_SOCKET_BUFFER}",
                    f"socket buffers have {size} bytes: bursts are lost earlier",
                    f"sysctl -w net.core.{name}={_SOCKET_BUFFER}, or give it CAP_NET_ADMIN",
                )
            )
    return missing
