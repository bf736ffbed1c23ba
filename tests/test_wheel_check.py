"""scripts/wheel_check.py, by which scripts/wheel checks each wheel: each fault is found."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent
VERSION = "1.2.3"
INFO = f"udpring-{VERSION}.dist-info"
PROCESSOR = platform.machine()
METADATA = """\
Metadata-Version: 2.4
Name: udpring
Version: 1.2.3
Summary: A tunnel
Author: The authors
License-Expression: Apache-2.0
License-File: LICENSE
Project-URL: Homepage, https://example.org
Project-URL: Documentation, https://example.org/docs
Project-URL: Changelog, https://example.org/changes
Project-URL: Issues, https://example.org/issues
Classifier: Programming Language :: Python :: 3.11
Classifier: Programming Language :: Python :: 3.12
Classifier: Programming Language :: Python :: 3.13
Classifier: Programming Language :: Python :: 3.14
Requires-Python: >=3.11

[A page](https://example.org/docs/node.md) and [a section](#section).
"""


def library(folder: Path, code: str, *flags: str) -> bytes:
    """A small shared library, stripped as those of scripts/wheel are."""
    source, made = folder / "small.c", folder / "small.so"
    source.write_text(code)
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-fvisibility=hidden", *(flags or ["-Wl,-s"]), source, "-o", made],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return made.read_bytes()


def module(folder: Path, name: str = "_core", more: str = "", *flags: str) -> bytes:
    shown = '__attribute__((visibility("default")))'
    return library(folder, f"{more}\n{shown} int PyInit_{name}(void) {{ return 0; }}\n", *flags)


class Wheel:
    """A wheel without a fault, in which a test changes one thing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"udpring-{VERSION}-cp311-abi3-manylinux_2_28_{PROCESSOR}.whl"
        self.files: dict[str, bytes | str] = {
            f"{INFO}/METADATA": METADATA,
            f"{INFO}/licenses/LICENSE": "Apache\n",
            "udpring/_libs/LICENSE.openssl": "Apache\n",
            "udpring/_core.abi3.so": module(folder),
            "udpring_tools/_bench.abi3.so": module(folder, "_bench"),
        }
        if PROCESSOR == "x86_64":
            self.files["udpring/_libs/libIPSec_MB.so.1"] = library(folder, "int one(void) { return 1; }\n")
            self.files["udpring/_libs/LICENSE.ipsec-mb"] = "BSD\n"

    def faults(self) -> list[str]:
        with zipfile.ZipFile(self.folder / self.name, "w") as written:
            for name, content in self.files.items():
                written.writestr(name, content)
        done = subprocess.run(
            [sys.executable, "-P", TOP / "scripts" / "wheel_check.py", self.folder / self.name],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert not done.stderr
        first, *faults = done.stdout.splitlines()
        assert done.returncode == bool(faults)
        assert first == f"{self.name}: {'faults:' if faults else 'as it should be'}"
        return [fault.strip() for fault in faults]


def test_cibuildwheel_checks_each_wheel(wheel: Wheel) -> None:
    """Its command, without auditwheel, which needs more than a small wheel."""
    settings = tomllib.loads((TOP / "pyproject.toml").read_text())["tool"]["cibuildwheel"]
    command = settings["repair-wheel-command"].format(dest_dir=wheel.folder, wheel=wheel.name)
    assert command.startswith("auditwheel repair --plat auto ")
    words = ["sh", "-c", f'auditwheel() {{ :; }}; python() {{ "{sys.executable}" "$@"; }}; {command}']

    def status() -> int:
        return subprocess.run(words, cwd=TOP, capture_output=True, check=False, timeout=60).returncode

    assert not wheel.faults()
    assert status() == 0
    del wheel.files["udpring/_libs/LICENSE.openssl"]
    assert wheel.faults()
    assert status() == 1


@pytest.fixture
def wheel(tmp_path: Path) -> Wheel:
    if not shutil.which("gcc") or not shutil.which("readelf"):
        pytest.skip("needs gcc and readelf: sudo apt-get install gcc")
    return Wheel(tmp_path)


def test_a_good_wheel_has_no_fault(wheel: Wheel) -> None:
    assert wheel.faults() == []


@pytest.mark.parametrize(
    "tag",
    ["cp311-abi3-manylinux_2_36_x86_64", "cp311-abi3-linux_x86_64", "cp311-cp311-manylinux_2_28_x86_64"],
)
def test_other_tags_are_refused(wheel: Wheel, tag: str) -> None:
    wheel.name = f"udpring-{VERSION}-{tag}.whl"
    (fault,) = wheel.faults()
    assert "the name is not" in fault


def test_other_processor_is_found(wheel: Wheel) -> None:
    other = "aarch64" if PROCESSOR == "x86_64" else "x86_64"
    wheel.name = wheel.name.replace(PROCESSOR, other)
    assert any("_core.abi3.so: it is for " in fault for fault in wheel.faults())


def test_folder_of_the_builder_is_found(wheel: Wheel) -> None:
    """libcrypto had the folder in which it would look for modules."""
    path = f"{TOP}/build/wheel/lib64/ossl-modules"
    wheel.files["udpring/_core.abi3.so"] = module(
        wheel.folder, "_core", f'__attribute__((used)) static const char modules[] = "{path}";'
    )
    assert wheel.faults() == [f"udpring/_core.abi3.so names a folder of the builder: {path}"]


@pytest.mark.parametrize("flag", ["-Wl,-rpath,/opt/lib", "-Wl,--disable-new-dtags,-rpath,/opt/lib"])
def test_run_path_is_found(wheel: Wheel, flag: str) -> None:
    wheel.files["udpring/_core.abi3.so"] = module(wheel.folder, "_core", "", "-Wl,-s", flag)
    (fault,) = wheel.faults()
    assert "PATH" in fault
    assert "/opt/lib" in fault


def test_missing_library_is_found(wheel: Wheel) -> None:
    wheel.files["udpring/_core.abi3.so"] = module(
        wheel.folder, "_core", "", "-Wl,-s,--no-as-needed", "-lcrypto"
    )
    (fault,) = wheel.faults()
    assert fault.startswith("udpring/_core.abi3.so: it needs libcrypto.so.3")


def test_symbols_that_remain_are_found(wheel: Wheel) -> None:
    wheel.files["udpring/_core.abi3.so"] = module(wheel.folder, "_core", "", "-g")
    assert "udpring/_core.abi3.so: it is not stripped: .symtab" in wheel.faults()
    assert "udpring/_core.abi3.so: it is not stripped: .debug_info" in wheel.faults()


def test_newer_c_library_is_found(wheel: Wheel) -> None:
    newer = (
        "unsigned arc4random(void); __attribute__((used)) static unsigned f(void) { return arc4random(); }"
    )
    wheel.files["udpring/_core.abi3.so"] = module(wheel.folder, "_core", newer)
    assert wheel.faults() == ["udpring/_core.abi3.so: it needs glibc 2.36"]


def test_c_library_of_glibc_is_found_for_musl(wheel: Wheel) -> None:
    wheel.name = wheel.name.replace("manylinux_2_28", "musllinux_1_2")
    wheel.files["udpring/_core.abi3.so"] = module(wheel.folder, "_core", "", "-Wl,-s,--no-as-needed")
    assert any("it needs libc.so.6" in fault for fault in wheel.faults())


def test_exported_symbol_is_found(wheel: Wheel) -> None:
    more = '__attribute__((visibility("default"))) int EVP_new(void) { return 0; }'
    wheel.files["udpring/_core.abi3.so"] = module(wheel.folder, "_core", more)
    (fault,) = wheel.faults()
    assert "it exports 2 symbols" in fault


def test_executable_stack_is_found(wheel: Wheel) -> None:
    wheel.files["udpring/_core.abi3.so"] = module(wheel.folder, "_core", "", "-Wl,-s,-z,execstack")
    assert wheel.faults() == ["udpring/_core.abi3.so: its stack is executable"]


def test_missing_notice_is_found(wheel: Wheel) -> None:
    del wheel.files["udpring/_libs/LICENSE.openssl"]
    assert wheel.faults() == ["no licence udpring/_libs/LICENSE.openssl"]


@pytest.mark.skipif(PROCESSOR != "x86_64", reason="ipsec-mb is for x86-64")
def test_missing_ipsecmb_is_found(wheel: Wheel) -> None:
    """Without it a wheel would be slow, and nobody would notice."""
    del wheel.files["udpring/_libs/libIPSec_MB.so.1"]
    (fault,) = wheel.faults()
    assert fault.startswith("the shared libraries are ")


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("https://example.org/docs/node.md", "docs/node.md", "METADATA has a relative link: docs/node.md"),
        ("Version: 1.2.3", "Version: 1.2.4", "METADATA has the version 1.2.4"),
        ("Author: The authors\n", "", "METADATA has no Author"),
        (
            "Classifier: Programming Language :: Python :: 3.14\n",
            "",
            "METADATA has no classifier of Python 3.14",
        ),
        ("Project-URL: Issues, https://example.org/issues\n", "", "METADATA has no URL of ['Issues']"),
    ],
)
def test_faulty_metadata_is_found(wheel: Wheel, old: str, new: str, fault: str) -> None:
    assert old in METADATA
    wheel.files[f"{INFO}/METADATA"] = METADATA.replace(old, new)
    assert wheel.faults() == [fault]
