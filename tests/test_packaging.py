"""Packages: the sdist builds, the wheel holds exactly what it needs, and an installed wheel runs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent
# The copy below has no git, as a source archive.
VERSION = tomllib.loads((TOP / "pyproject.toml").read_text())["tool"]["setuptools_scm"]["fallback_version"]

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("packaging"), pytest.mark.timeout(300)]


def run(*command: object, cwd: Path, **environment: str) -> str:
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def sdist_of_a_copy(out: Path) -> Path:
    """An sdist, built in a copy: that writes into its directory, which other tests read or build from."""
    copy = out / "copy"
    shutil.copytree(
        TOP, copy, ignore=shutil.ignore_patterns(".*", "build", "__pycache__", "*.so", "*.egg-info")
    )
    for path in copy.rglob("*"):
        os.utime(path)
    setup = [sys.executable, "setup.py", "-q"]
    run(*setup, "egg_info", "--egg-base", out, "sdist", "--dist-dir", out, cwd=copy)
    (sdist,) = out.glob("udpring-*.tar.gz")
    return sdist


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sdist_of_a_copy(tmp_path_factory.mktemp("dist"))


def libraries_of_the_host(folder: Path) -> Path:
    """As scripts/wheel-libraries makes them: libcrypto's archive, ipsec-mb where the host has it, notices."""
    for name in ("lib", "include", "notices"):
        (folder / name).mkdir(parents=True)
    for name in ("libcrypto.a", "libIPSec_MB.so.1"):
        found = Path(run("gcc", f"-print-file-name={name}", cwd=folder).strip())
        if found.is_absolute():
            shutil.copy(found, folder / "lib")
    (folder / "notices" / "LICENSE.openssl").write_text("the notice of a library\n")
    return folder


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    """Built from the sdist, so that a file missing in MANIFEST.in is noticed. As scripts/wheel does it, with
    the host's compiler."""
    out = sdist.parent
    libraries = libraries_of_the_host(out / "libraries")
    # Not shutil.unpack_archive: Debian 12's Python 3.11.2 has no ``filter``, and later ones warn without it.
    (out / "unpacked").mkdir()
    run("tar", "-xzf", sdist, "-C", out / "unpacked", cwd=out)
    pip = [
        sys.executable,
        "-P",
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-build-isolation",
        "--no-deps",
        "--no-index",
    ]
    source = out / "unpacked" / f"udpring-{VERSION}"
    run(*pip, "--wheel-dir", out, source, cwd=out, UDPRING_LIBRARIES=str(libraries))
    (wheel,) = out.glob("*.whl")
    return wheel


def test_sdist_is_reproducible(sdist: Path, tmp_path: Path) -> None:
    assert sdist_of_a_copy(tmp_path).read_bytes() == sdist.read_bytes()


def test_version_follows_the_tag(sdist: Path, tmp_path: Path) -> None:
    """Of a checkout: the tag's, or after it the next one's development version."""
    run("tar", "-xzf", sdist, "--strip-components", "1", "-C", tmp_path, cwd=tmp_path)
    git = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org"]
    run(*git, "init", "-q", cwd=tmp_path)
    shutil.copy(TOP / ".gitignore", tmp_path)
    run(*git, "add", ".", cwd=tmp_path)
    run(*git, "commit", "-q", "-m", "A", cwd=tmp_path)
    run(*git, "tag", "v7.8.9", cwd=tmp_path)
    ask = (sys.executable, "-P", "-m", "setuptools_scm")
    assert run(*ask, cwd=tmp_path).strip() == "7.8.9"
    run(*git, "commit", "-q", "--allow-empty", "-m", "B", cwd=tmp_path)
    assert run(*ask, cwd=tmp_path).startswith("7.8.10.dev1+g")


def test_long_description_has_absolute_links(wheel: Path) -> None:
    """A package index shows it far from the files that README.md links to."""
    shown = message_from_bytes(
        zipfile.ZipFile(wheel).read(f"udpring-{VERSION}.dist-info/METADATA")
    ).get_payload()
    assert isinstance(shown, str)
    links = re.findall(r"\]\(([^)]+)\)", shown)
    assert len(links) > 10
    assert not [link for link in links if not link.startswith(("https://", "#"))]


def test_free_threaded_python_is_refused(sdist: Path, tmp_path: Path) -> None:
    run("tar", "-xzf", sdist, "--strip-components", "1", "-C", tmp_path, cwd=tmp_path)
    pretend = (
        "import runpy, sysconfig\n"
        "regular = sysconfig.get_config_var\n"
        "sysconfig.get_config_var = lambda name: 1 if name == 'Py_GIL_DISABLED' else regular(name)\n"
        "runpy.run_path('setup.py', run_name='__main__')\n"
    )
    refused = subprocess.run(
        [sys.executable, "-P", "-c", pretend, "--version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert refused.returncode == 1
    assert refused.stderr.startswith("udpring does not support free-threaded Python: ")


def test_cibuildwheel_builds_for_both_libraries_and_processors() -> None:
    """By its own reading of pyproject.toml. It needs no container for that."""
    ask = (sys.executable, "-P", "-m", "cibuildwheel", "--platform", "linux", "--print-build-identifiers")
    assert run(*ask, cwd=TOP).split() == [
        f"cp311-{library}_{processor}"
        for library in ("manylinux", "musllinux")
        for processor in ("x86_64", "aarch64")
    ]


def test_wheels_have_each_algorithm_of_the_core() -> None:
    """A libcrypto of scripts/wheel-libraries without one of them would be found only by the user."""
    asked = re.compile(r'(?:_fetch|_(?:private|public)_key_ex)\(NULL, (?:"([^"]+)"|OSSL_MAC_NAME_(\w+))')
    names = {
        "".join(found.groups("")).replace("-", "").lower()
        for source in (TOP / "udpring" / "native").rglob("*.c")
        for found in asked.finditer(source.read_text())
    }
    script = (TOP / "scripts" / "wheel-libraries").read_text()
    listed = re.search(r"^algorithms=\((.*)\)$", script, re.MULTILINE)
    assert listed is not None
    checked = {word.removesuffix("_keyexch").replace("_ossl_", "") for word in listed[1].split()}
    assert {"x25519", "blake2s256"} <= names
    assert names == checked


def test_the_wheel_serves_every_python_from_3_11(wheel: Path) -> None:
    assert wheel.name.startswith(f"udpring-{VERSION}-cp311-abi3-linux_")


def test_wheel_holds_core_and_types_only(wheel: Path) -> None:
    """The wheel has no C sources and no foreign packages."""
    names = zipfile.ZipFile(wheel).namelist()
    assert "udpring/py.typed" in names
    assert any(name.endswith("LICENSE") for name in names)
    ours = ("udpring/", "udpring_tools/", f"udpring-{VERSION}.dist-info/")
    modules = [name for name in names if ".so" in name and "/_libs/" not in name]
    assert modules == ["udpring/_core.abi3.so", "udpring_tools/_bench.abi3.so"]
    strangers = [name for name in names if not name.startswith(ours)]
    assert strangers.pop() == f"udpring-{VERSION}.data/data/lib/systemd/system/udpring@.service"
    sources = [name for name in names if name.endswith((".c", ".h")) or "/native/" in name]
    assert not strangers + sources


def test_the_wheel_holds_nothing_for_tests(wheel: Path, tmp_path: Path) -> None:
    """No function of the tests' module, neither for Python nor as a symbol, and no debug information."""
    header = (TOP / "tests" / "native" / "abi.h").read_text()
    added = set(re.findall(r"\b(udpring_\w+)\(", header))
    assert len(added) > 30
    for module in ("udpring/_core.abi3.so", "udpring_tools/_bench.abi3.so"):
        content = zipfile.ZipFile(wheel).read(module)
        assert not [name for name in added if re.search(rf"\b{name}\b".encode(), content)]
        assert b".debug_info" not in content
        assert b".symtab" not in content
        (tmp_path / "module.so").write_bytes(content)
        exported = run("nm", "-D", "--defined-only", tmp_path / "module.so", cwd=tmp_path)
        assert re.findall(r"\S+$", exported, re.MULTILINE) == [
            f"PyInit_{Path(module).name.partition('.')[0]}"
        ]


def test_wheel_brings_its_libraries(wheel: Path, tmp_path: Path) -> None:
    """libcrypto is linked in. ipsec-mb lies beside the modules. Nothing names a folder of the builder."""
    held = zipfile.ZipFile(wheel)
    beside = {name.rpartition("/")[2] for name in held.namelist() if "/_libs/" in name}
    assert "LICENSE.openssl" in beside
    assert ("libIPSec_MB.so.1" in beside) == (wheel.parent / "libraries/lib/libIPSec_MB.so.1").exists()
    for module in ("udpring/_core.abi3.so", "udpring_tools/_bench.abi3.so"):
        (tmp_path / "module.so").write_bytes(held.read(module))
        dynamic = run("readelf", "-d", tmp_path / "module.so", cwd=tmp_path)
        assert "libcrypto" not in dynamic
        assert "RUNPATH" not in dynamic
        assert "RPATH" not in dynamic


def test_the_installed_wheel_runs(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-P", "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [sys.executable, "-P", "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index"]
    run(*pip, wheel, cwd=tmp_path)
    # The dependencies come from the environment of the test, so no network is needed. A path in a .pth file
    # does not bring that environment's .pth files along, nor its editable udpring.
    (site_packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    dependencies = Path(pytest.__file__).parent.parent
    (site_packages / "dependencies.pth").write_text(f"{dependencies}\n")
    where = run(python, "-P", "-c", "import udpring._native as it; print(it._core.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(site_packages)
    assert VERSION in run(tmp_path / "venv" / "bin" / "udpring", "--version", cwd=tmp_path)
    measured = run(tmp_path / "venv" / "bin" / "udpring", "bench", "aead", "--rounds", "10", cwd=tmp_path)
    assert "openssl" in measured
    if libraries := list(site_packages.glob("udpring/_libs/libIPSec_MB.so.*")):
        mapped = "from udpring.tunnel.probe import probe; probe(); print(open('/proc/self/maps').read())"
        assert str(libraries[0]) in run(python, "-P", "-c", mapped, cwd=tmp_path)
    # A distribution may omit the tools.
    shutil.rmtree(site_packages / "udpring_tools")
    command = tmp_path / "venv" / "bin" / "udpring"
    refused = subprocess.run(
        [command, "bench", "aead"], capture_output=True, text=True, check=False, timeout=60
    )
    assert refused.returncode == 3
    assert "needs the Python package udpring_tools" in refused.stderr
    assert run(command, "genkey", cwd=tmp_path)
