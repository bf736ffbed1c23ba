"""Daemonising: what the parent waits for, what the child keeps, and how interfaces are shut down."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import platform
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import udpring
from udpring.cli import wg
from udpring.errors import ConfigError, HostError
from udpring.tunnel.daemon import LEVELS, DaemonOptions
from udpring.tunnel.process import end_server, server_of

BACKGROUND = """
import json, os, sys, time
from udpring.tunnel.daemon import detach
kept = os.open("/dev/null", os.O_RDONLY)
left = os.open("/dev/null", os.O_RDONLY)
os.set_inheritable(left, True)
def work(ready):
    {work}
sys.exit(detach(work, keep=[kept]))
"""


TELL = """
ready()
numbers = [number for number in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{number}")]
fds = {number: os.readlink(f"/proc/self/fd/{number}") for number in numbers}
what = {"fds": fds, "kept": kept, "cwd": os.getcwd(), "leads": os.getsid(0) == os.getpid()}
with open(sys.argv[1] + "~", "w") as reported:
    reported.write(json.dumps(what))
os.rename(sys.argv[1] + "~", sys.argv[1])
return 0, ""
""".strip()


def background(work: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs it with pipes. Returns once the parent has ended and all copies of the pipes are closed."""
    text = BACKGROUND.format(work=work.replace("\n", "\n    "))
    return subprocess.run(
        [sys.executable, "-P", "-c", text, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def until(path: Path, seconds: float = 30) -> str:
    end = time.monotonic() + seconds
    while not path.exists() or not path.read_text():
        assert time.monotonic() < end, f"{path} was not written"
        time.sleep(0.01)
    return path.read_text()


def test_parent_returns_when_child_is_ready(tmp_path: Path) -> None:
    """The child keeps none of the parent's descriptors."""
    reported = tmp_path / "reported"
    done = background(TELL, str(reported))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    child = json.loads(until(reported))
    assert child["cwd"] == "/"
    assert child["leads"]
    assert {int(fd) for fd in child["fds"]} >= {0, 1, 2, child["kept"]}
    assert set(child["fds"].values()) == {"/dev/null"}, "no pipe and no directory of the caller's"


def test_attached_child_belongs_to_caller_until_ready(tmp_path: Path) -> None:
    reported = tmp_path / "reported"
    first = (
        "os.system('echo before; pwd')\n"
        "assert os.getsid(0) == os.getsid(os.getppid())\n"
        "assert not os.path.exists(f'/proc/self/fd/{left}')\n"
    )
    text = BACKGROUND.format(work=(first + TELL).replace("\n", "\n    "))
    text = text.replace("keep=[kept]", "keep=[kept], attached=True")
    done = subprocess.run(
        [sys.executable, "-P", "-c", text, str(reported)],
        capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, f"before\n{tmp_path}\n", "")
    child = json.loads(until(reported))
    assert (child["cwd"], child["leads"]) == ("/", True)
    assert set(child["fds"].values()) == {"/dev/null"}


@pytest.mark.parametrize(
    ("work", "code", "words"),
    [
        ("return 3, 'no TUN\\ndevice (modprobe tun)'", 3, "udpring: no TUN device (modprobe tun)"),
        ("raise RuntimeError('broken')", 1, "RuntimeError: broken"),
        ("os._exit(9)", 1, "ended at once"),
        ("ready(); ready(); return 0, ''", 0, ""),
    ],
)
def test_start_failure_is_one_line_on_terminal(work: str, code: int, words: str) -> None:
    done = background(work)
    assert done.returncode == code
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == (1 if words else 0)


def test_the_environment_is_read_as_wireguard_go_reads_it() -> None:
    options = DaemonOptions.read(
        "wg0",
        False,
        {"LOG_LEVEL": "verbose", "WG_TUN_FD": "5", "WG_UAPI_FD": "6", "WG_PROCESS_FOREGROUND": "1"},
    )
    assert (options.tun_fd, options.uapi_fd, options.foreground) == (5, 6, True)
    assert options.descriptors == [5, 6]
    assert options.log_level == LEVELS["verbose"]
    plain = DaemonOptions.read("wg0", False, {"WG_PROCESS_FOREGROUND": "0", "LOG_LEVEL": "loud"})
    assert (plain.foreground, plain.descriptors, plain.log_level) == (False, [], LEVELS["error"])
    assert DaemonOptions.read("wg0", True, {}).foreground
    for no_number in ("five", "-1", "2147483648", "9" * 5000):
        with pytest.raises(ConfigError, match="WG_TUN_FD"):
            DaemonOptions.read("wg0", False, {"WG_TUN_FD": no_number})


LISTENER = """
import os, signal, socket, sys
null = os.open("/dev/null", os.O_RDWR)
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen()
if sys.argv[2] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("listening", flush=True)
signal.pause()
"""


NAME = f"udpring{os.getpid()}"
"""A unique name, because tests run side by side."""


@pytest.fixture
def without_tun(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that listens on the socket counts as the server, because these tests cannot make a TUN
    device."""
    path = "udpring.tunnel.process._TUN_DEVICE"
    monkeypatch.setattr(path, Path("/dev/null").stat().st_rdev)
    monkeypatch.setattr("udpring.tunnel.process._names", lambda facts, interface: True)


def listener(path: Path, manner: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", LISTENER, os.fspath(path), manner], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "listening\n"
    return process


@pytest.mark.usefixtures("without_tun")
def test_the_process_behind_a_socket_is_found_and_ended(tmp_path: Path) -> None:
    with listener(tmp_path / f"{NAME}.sock", "good") as process:
        assert server_of(tmp_path / f"{NAME}.sock") == process.pid
        end_server(NAME, 30, tmp_path)
        assert process.wait(30) == -signal.SIGTERM
    with pytest.raises(HostError, match="nothing serves"):
        end_server(NAME, 30, tmp_path)


@pytest.mark.usefixtures("without_tun")
def test_process_that_does_not_end_is_reported(tmp_path: Path) -> None:
    with listener(tmp_path / f"{NAME}.sock", "deaf") as process:
        with pytest.raises(HostError, match=f"kill -9 {process.pid}"):
            end_server(NAME, 0.1, tmp_path)
        process.kill()


def test_process_without_the_interface_is_left_alone(tmp_path: Path) -> None:
    """The process that made the socket need not be the one that serves it."""
    with listener(tmp_path / f"{NAME}.sock", "good") as process:
        with pytest.raises(HostError) as refused:
            end_server(NAME, 30, tmp_path)
        assert process.poll() is None
        assert os.geteuid() or str(process.pid) in str(refused.value)
        process.kill()


def test_plain_file_is_no_socket(tmp_path: Path) -> None:
    (tmp_path / f"{NAME}.sock").touch()
    with pytest.raises(HostError, match="nothing serves"):
        server_of(tmp_path / f"{NAME}.sock")


LOADED = """
import gc, sys
sys.path[:0] = sys.argv[1:]
import udpring
from udpring.cli import wg
from udpring.tunnel import daemon
wg.words_of(["-f", "wg0"])
daemon.load_modules()
from udpring.tunnel.rehearsal import rehearse
rehearse()
print(gc.isenabled(), gc.get_freeze_count() > 10_000, "udpring.tunnel.tunnel" in sys.modules)
print(*sorted(UNWANTED & set(sys.modules)))
"""
UNWANTED = {
    "argparse",
    "base64",
    "bz2",
    "cryptography",
    "difflib",
    "hashlib",
    "hmac",
    "pathlib",
    "ssl",
    "udpring._abi",
    "udpring.tunnel.config",
    "udpring.tunnel.resolver",
    "urllib.parse",
}
"""Each takes from 0.3 to 20 ms of a start, and memory."""


def test_node_loads_what_it_needs(tmp_path: Path) -> None:
    """As from a wheel, which has no sources of the core, and without what ``site`` loads for an editable
    installation. The garbage collector leaves the modules alone."""
    package = Path(udpring.__file__).parent
    (tmp_path / "udpring").mkdir()
    for path in package.iterdir():
        if path.name not in ("native", "__pycache__"):
            (tmp_path / "udpring" / path.name).symlink_to(path)
    code = LOADED.replace("UNWANTED", repr(UNWANTED))
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(tmp_path), sysconfig.get_path("platlib")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("True True True\n\n", "")


LATER = {
    # Before the confinement.
    "udpring.cli.wg",
    "udpring.tunnel.confinement",
    "udpring.tunnel.daemon",
    "udpring.tunnel.process_log",
    "udpring.tunnel.refusals",
    "udpring.tunnel.timestamp_file",
    # In the broker, or in a node without one, which is not confined in this way.
    "udpring.tunnel.broker_services",
    "udpring.tunnel.crossed_tunnels",
    "udpring.tunnel.outside",
    # Not by a node: clients, and handshakes without the core.
    "udpring.tunnel.keys",
    "udpring.tunnel.uapi_client",
    "udpring.wireguard.blake2s",
    "udpring.wireguard.cookie",
    "udpring.wireguard.noise",
}
"""Modules of a node whose functions may import what is not loaded yet."""


def imports_of_functions(path: Path) -> Iterator[str]:
    """The modules that functions of this file import."""
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.Import):
                    yield from (alias.name for alias in node.names)
                elif isinstance(node, ast.ImportFrom):
                    assert not node.level
                    yield node.module or ""


def test_a_confined_node_imports_nothing() -> None:
    """It may open no files. What its functions import has been loaded, also the check of mac1."""
    code = """
import sys
from udpring.cli import wg
from udpring.tunnel import daemon
daemon.load_modules()
from udpring.tunnel.rehearsal import rehearse
rehearse()
before = set(sys.modules)
from udpring.wireguard.cookie import MacSigner, mac1_key, mac1_valid
assert mac1_valid(mac1_key(bytes(32)), MacSigner(bytes(32)).sign(bytes(116), 0))
assert set(sys.modules) == before, set(sys.modules) - before
print(*sorted(before))
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    ours = {name for name in loaded if name.startswith("udpring.") and name not in LATER}
    assert len(ours) > 50
    missing = {}
    for name in ours:
        path = Path(udpring.__file__).parent.parent / (name.replace(".", "/") + ".py")
        late = set(imports_of_functions(path)) - loaded if path.exists() else set()
        if late:
            missing[name] = late
    assert not missing


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc loads it for pthread_exit")
def test_confined_threads_can_end() -> None:
    """Python ends threads that run at its end by pthread_exit(3), for which glibc loads a library then."""
    code = """
from pathlib import Path
from udpring.tunnel.confinement import Profile, _load_now
_load_now(Profile.SERVER)
print("/libgcc_s.so.1" in Path("/proc/self/maps").read_text())
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


@given(
    st.lists(
        st.sampled_from(["-f", "--foreground", "wg0", "", "-", "-x", "--", "--log-format", "json"]),
        max_size=4,
    )
)
def test_usual_arguments_are_read_as_by_argparse(words: list[str]) -> None:
    def by_argparse() -> object:
        with contextlib.redirect_stderr(io.StringIO()):
            taken = wg.parser().parse_args(words)
        return taken.interface, taken.foreground, taken.log_format

    try:
        expected = by_argparse()
    except SystemExit:
        expected = None
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            found = wg.words_of(words)
    except SystemExit:
        found = None
    assert found == expected
