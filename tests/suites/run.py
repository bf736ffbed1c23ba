"""Runs the test suites of libraries, unchanged, with their datagram endpoints on the rings.

Each suite comes from the library's sdist, which pip fetches, or from a git repository. A test that fails is
run once more, and then without udpring. It counts against udpring only if it passes there. A suite fails as
well if it opened no endpoint on the rings.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import NamedTuple

TOP = Path(__file__).resolve().parents[2]
HERE = TOP / "build" / "suites"
PYTHON = HERE / "venv" / "bin" / "python"
SECONDS = 1800
"""For one run of a suite."""


class Suite(NamedTuple):
    name: str
    arguments: tuple[str, ...]
    """Of pytest."""
    packages: tuple[str, ...] = ()
    """Beside the library itself."""
    environment: tuple[tuple[str, str], ...] = ()
    exempt: tuple[tuple[str, str], ...] = ()
    """Tests that do not count: a part of the test's id, and the reason."""
    checkout: str = ""
    """Where the sdist lacks the tests: the address of the repository."""
    least_endpoints: int = 1


_AIOCOAP = "https://github.com/chrysn/aiocoap"
_COAP = ("cbor2", "filelock", "ge25519", "cbor-diag", "lakers-python<0.7", "websockets<16", "pygments")
_EVENTS = ("test/test_asyncio/test_events.py", "test/test_asyncio/test_base_events.py")

SUITES = (
    Suite(
        "cpython",
        (*_EVENTS, "test/test_asyncio/test_sendfile.py", "-k", "datagram or Datagram"),
        exempt=(
            (
                "test_create_datagram_endpoint_connect_err",
                "replaces sock_connect of the loop, which asyncio calls",
            ),
            (
                "test_create_datagram_endpoint_ip_addr",
                "replaces the socket by one without a descriptor",
            ),
        ),
    ),
    Suite("uvloop", ("tests/test_udp.py",)),
    Suite("aioquic", ("tests",)),
    Suite("aioice", ("tests",)),
    Suite(
        "zeroconf",
        ("tests", "--ignore=tests/benchmarks"),
        packages=("pytest-cov", "pytest-codspeed", "blockbuster", "hypothesis"),
        exempt=(
            ("test_circular_imports", "opens no endpoint, and may find a thread of asyncio's child watcher"),
        ),
    ),
    Suite("asyncio-dgram", ("test",)),
    # Its default transport reads the socket itself, and opens no endpoint.
    Suite("aiocoap", ("tests",), packages=_COAP, checkout=_AIOCOAP, least_endpoints=0),
    # The two files left out fail on these transports without udpring too, some tests after a minute each.
    Suite(
        "aiocoap-simple",
        ("tests", "--deselect=tests/test_oscore_plugtest.py", "--deselect=tests/test_commandline.py"),
        packages=_COAP,
        checkout=_AIOCOAP,
        environment=(
            ("AIOCOAP_CLIENT_TRANSPORT", "simple6"),
            ("AIOCOAP_SERVER_TRANSPORT", "simplesocketserver"),
        ),
    ),
)


class Failed(Exception):
    """The suite could not be had. The text is for the user."""


def call(*command: object, cwd: Path = HERE) -> str:
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False, timeout=SECONDS
    )
    if done.returncode:
        raise Failed(f"{command[0]} {command[1]}: {(done.stderr or done.stdout).strip()[-600:]}")
    return done.stdout


def pip(*arguments: object) -> str:
    return call(PYTHON, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments)


def prepare() -> None:
    """A virtual environment that the suites share. udpring comes from the checkout."""
    if not PYTHON.exists():
        HERE.mkdir(parents=True, exist_ok=True)
        venv.create(HERE / "venv", with_pip=True, symlinks=True)
    pip("install", "setuptools>=77", "wheel", "hatchling", "poetry-core")  # to read the metadata of an sdist
    # zeroconf's suite needs an older pytest-asyncio than the newest
    pip(
        "install", "cffi>=2.0", "cryptography>=47", "pytest", "pytest-asyncio<1.5", "pytest-timeout", "uvloop"
    )
    (HERE / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")


def source(suite: Suite, checkouts: dict[str, Path]) -> tuple[Path, str]:
    """The folder to run the suite in, and the version. The library itself is installed."""
    folder = HERE / suite.name
    if suite.name == "cpython":
        return cpython(folder), sys.version.split()[0]
    shutil.rmtree(folder, ignore_errors=True)
    if suite.packages:
        pip("install", "--prefer-binary", *suite.packages)
    if suite.checkout:
        library = suite.name.partition("-")[0]
        if library in checkouts:
            call("git", "clone", "--quiet", checkouts[library], folder)
        else:
            call("git", "clone", "--quiet", "--depth", "1", suite.checkout, folder)
        pip("install", "--no-deps", "--no-build-isolation", folder)  # for programs that its tests start
        return folder, call("git", "log", "-1", "--format=%h of %cs", cwd=folder).strip()
    pip("install", "--prefer-binary", suite.name)
    version = call(PYTHON, "-c", f"import importlib.metadata as m; print(m.version({suite.name!r}))").strip()
    with_source = HERE / "sdists" / suite.name
    shutil.rmtree(with_source, ignore_errors=True)
    # Without isolation, which would fetch and run what a build needs. Only the source is wanted.
    only_source = ("--no-deps", "--no-build-isolation", "--no-binary", ":all:")
    pip("download", *only_source, "--dest", with_source, f"{suite.name}=={version}")
    call("tar", "-xzf", next(with_source.glob("*.tar.gz")), cwd=with_source)
    unpacked = next(path for path in with_source.iterdir() if path.is_dir())
    folder.mkdir()
    for name in ("tests", "test", "pyproject.toml"):  # not the library: the installed one is tested
        if (unpacked / name).is_dir():
            shutil.copytree(unpacked / name, folder / name)
        elif (unpacked / name).exists():
            shutil.copy(unpacked / name, folder)
    return folder, version


def cpython(folder: Path) -> Path:
    """The folder with ``test/test_asyncio`` of this interpreter, or of Debian's package with its tests."""
    own = Path(os.__file__).parent
    if (own / "test" / "test_asyncio").is_dir():
        return own
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    package = f"libpython{sys.version_info.major}.{sys.version_info.minor}-testsuite"
    call("apt-get", "download", package, cwd=folder)
    call("dpkg", "-x", next(folder.glob("*.deb")), folder, cwd=folder)
    return next(folder.glob("usr/lib/python3*"))


class Outcome(NamedTuple):
    passed: dict[str, str]
    skipped: dict[str, str]
    failed: dict[str, str]
    """The id of each test that failed, and a line about it."""
    endpoints: int
    output: str


def run(suite: Suite, folder: Path, arguments: tuple[str, ...], *, without: bool = False) -> Outcome:
    report = HERE / f"{suite.name}.json"
    report.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TOP), str(TOP / "tests" / "suites")]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "SUITES_REPORT": str(report),
        **dict(suite.environment),
    }
    environment.pop("SUITES_WITHOUT", None)
    if without:
        environment["SUITES_WITHOUT"] = "1"
    plugins = ["-p", "on_rings"]
    if suite.name == "cpython":
        plugins += ["-p", "cpython_tests"]
        environment["SUITES_TESTS"] = str(folder / "test")
    command = [str(PYTHON), "-m", "pytest", "-q", *plugins, "-p", "no:cacheprovider", "--timeout=120"]
    command += ["-c", str(HERE / "pytest.ini"), "--rootdir", str(folder)]
    done = subprocess.run(
        [*command, *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    if not report.exists():
        raise Failed(f"pytest ended with {done.returncode}: {done.stdout[-600:]}")
    said = json.loads(report.read_text())
    failed = said["failed"]
    passed = {name: line for name, line in said["passed"].items() if name not in failed}
    return Outcome(passed, said["skipped"], failed, said["endpoints"], done.stdout)


def judged(suite: Suite, checkouts: dict[str, Path]) -> bool:
    began = time.monotonic()
    try:
        folder, version = source(suite, checkouts)
        first = run(suite, folder, suite.arguments)
    except (Failed, OSError, subprocess.TimeoutExpired, StopIteration) as error:
        print(f"{suite.name}: LEFT OUT: {error}", flush=True)
        return False
    (HERE / f"{suite.name}.log").write_text(first.output)
    print(
        f"{suite.name} {version}: {len(first.passed)} passed, {len(first.failed)} failed, "
        f"{len(first.skipped)} skipped, {first.endpoints} endpoints on the rings, "
        f"{time.monotonic() - began:.0f} s",
        flush=True,
    )
    bad = 0
    names = []
    for name in first.failed:
        listed = next((reason for part, reason in suite.exempt if part in name), "")
        if listed:
            print(f"    not applicable: {name}: {listed}")
        else:
            names.append(name)
    again = run(suite, folder, tuple(names)).passed if names else {}
    left = tuple(name for name in names if name not in again)
    without = run(suite, folder, left, without=True).failed if left else {}
    for name in names:
        said = "passed when run again" if name in again else "fails without udpring too"
        if name in left and name not in without:
            said = "FAILED"
            bad += 1
        print(f"    {said}: {name}: {first.failed[name]}")
    if first.endpoints < suite.least_endpoints:
        print("    FAILED: no endpoint was opened on the rings")
        bad += 1
    good = not bad and len(first.passed) > 0
    print(f"    {'PASS' if good else 'FAIL'}", flush=True)
    return good


def main() -> int:
    names = [suite.name for suite in SUITES]
    parser = argparse.ArgumentParser(prog="scripts/suites", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"all by default: {', '.join(names)}")
    parser.add_argument(
        "--checkout",
        action="append",
        default=[],
        metavar="SUITE=FOLDER",
        help="use this git repository in place of the one on the network (aiocoap)",
    )
    given = parser.parse_args()
    if unknown := set(given.suites) - set(names):
        parser.error(f"no suite {', '.join(sorted(unknown))}: {', '.join(names)}")
    checkouts = {name: Path(folder) for name, _, folder in (each.partition("=") for each in given.checkout)}
    try:
        prepare()
    except Failed as error:
        print(f"suites: {error}", file=sys.stderr)
        return 3
    outcomes = [
        judged(suite, checkouts) for suite in SUITES if not given.suites or suite.name in given.suites
    ]
    return 0 if all(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
