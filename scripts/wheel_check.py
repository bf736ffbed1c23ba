"""Checks wheels of scripts/wheel without running them, for any processor: names, libraries, licences.

Usage: wheel_check.py WHEEL...

Prints a line for each wheel, and one for each fault. Exits with 1 if there is a fault. It needs readelf.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from email import message_from_bytes
from pathlib import Path
from zipfile import ZipFile

TOP = Path(__file__).resolve().parent.parent
NAME = re.compile(
    r"udpring-(?P<version>[^-]+)-cp311-abi3-"
    r"(?:manylinux_2_(?:1\d|2[0-8])|(?P<musl>musllinux_1_[0-2]))_(?P<processor>x86_64|aarch64)\.whl"
)
# The processor's name in an ELF header, by the name of it in a wheel's tag.
MACHINES = {"x86_64": "Advanced Micro Devices X86-64", "aarch64": "AArch64"}
GLIBC = re.compile(
    r"libc\.so\.6|ld-linux-(x86-64\.so\.2|aarch64\.so\.1)|lib(pthread\.so\.0|dl\.so\.2|m\.so\.6)"
)
MUSL = re.compile(r"libc\.musl-(x86_64|aarch64)\.so\.1")
NEWEST_GLIBC = (2, 28)
MODULES = ("udpring/_core.abi3.so", "udpring_tools/_bench.abi3.so")
IPSECMB = "udpring/_libs/libIPSec_MB.so.1"


def main(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if words else 2
    failed = False
    for word in words:
        faults = list(faults_of(Path(word)))
        failed = failed or bool(faults)
        print(f"{Path(word).name}: {'faults:' if faults else 'as it should be'}")
        for fault in faults:
            print(f"  {fault}")
    return int(failed)


def faults_of(wheel: Path) -> Iterator[str]:
    said = NAME.fullmatch(wheel.name)
    if said is None:
        yield "the name is not of glibc 2.28 or musl 1.2 at most, cp311-abi3, x86_64 or aarch64"
        return
    processor, libraries = said["processor"], MUSL if said["musl"] else GLIBC
    with ZipFile(wheel) as held:
        files = {name: held.read(name) for name in held.namelist()}
    info = f"udpring-{said['version']}.dist-info"
    shared = [name for name in files if re.search(r"\.so(\.\d+)*$", name)]
    expected = {*MODULES, IPSECMB} if processor == "x86_64" else {*MODULES}
    if set(shared) != expected:
        yield f"the shared libraries are {sorted(shared)}, not {sorted(expected)}"
    notices = {f"{info}/licenses/LICENSE", "udpring/_libs/LICENSE.openssl"}
    if IPSECMB in files:
        notices.add("udpring/_libs/LICENSE.ipsec-mb")
    for name in sorted(notices):
        if not files.get(name, b"").strip():
            yield f"no licence {name}"
    builder = str(TOP).encode()
    for name, content in files.items():
        if builder in content:
            yield f"{name} names a folder of the builder: {path_in(content, builder)}"
    for name in shared:
        for fault in faults_of_library(files[name], processor, libraries, name in MODULES):
            yield f"{name}: {fault}"
    yield from faults_of_metadata(files.get(f"{info}/METADATA", b""), said["version"])


def path_in(content: bytes, builder: bytes) -> str:
    found = re.search(re.escape(builder) + rb"[\w./+@-]*", content)
    return found[0].decode() if found else ""


def faults_of_library(
    content: bytes, processor: str, libraries: re.Pattern[str], module: bool
) -> Iterator[str]:
    read = ("readelf", "--wide", "--file-header", "--segments", "--sections", "--dynamic", "--dyn-syms")
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        text = subprocess.run([*read, file.name], capture_output=True, text=True, check=True).stdout
    machine = re.search(r"Machine: +(.*)", text)
    if machine is None or machine[1] != MACHINES[processor]:
        yield f"it is for {machine[1] if machine else 'no processor'}"
    for path in re.findall(r"\((?:RUNPATH|RPATH)\).*", text):
        yield f"it has {path}"
    for needed in re.findall(r"\(NEEDED\).*\[(.*)\]", text):
        if not libraries.fullmatch(needed):
            yield f"it needs {needed}, which is neither in the wheel nor the C library"
    for section in sorted(set(re.findall(r"\] (\.symtab|\.debug_\w+) ", text))):
        yield f"it is not stripped: {section}"
    for version in sorted(set(re.findall(r"@GLIBC_(\d+\.\d+)", text))):
        if tuple(map(int, version.split("."))) > NEWEST_GLIBC:
            yield f"it needs glibc {version}"
    if re.search(r"GNU_STACK.* RWE ", text):
        yield "its stack is executable"
    exported = re.findall(r" (?:GLOBAL|WEAK) +DEFAULT +\d+ (\w+)", text)
    if module and not all(name.startswith("PyInit_") for name in exported):
        yield f"it exports {len(exported)} symbols, which could take the place of the program's own"


def faults_of_metadata(content: bytes, version: str) -> Iterator[str]:
    metadata = message_from_bytes(content)
    if metadata["Version"] != version:
        yield f"METADATA has the version {metadata['Version']}"
    for field in ("Author", "License-Expression", "License-File", "Requires-Python", "Summary"):
        if not metadata[field]:
            yield f"METADATA has no {field}"
    urls = {url.partition(",")[0] for url in metadata.get_all("Project-URL", [])}
    if missing := {"Homepage", "Documentation", "Changelog", "Issues"} - urls:
        yield f"METADATA has no URL of {sorted(missing)}"
    classifiers = metadata.get_all("Classifier", [])
    for minor in (11, 12, 13, 14):
        if f"Programming Language :: Python :: 3.{minor}" not in classifiers:
            yield f"METADATA has no classifier of Python 3.{minor}"
    description = metadata.get_payload()
    assert isinstance(description, str)
    for link in re.findall(r"\]\(([^)]+)\)", description):
        if not link.startswith(("https://", "#")):
            yield f"METADATA has a relative link: {link}"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
