"""Builds udpring._core: every C file of the rooms below this folder, behind the abi.h files.

The abi.h files are read twice: by the compiler, and by cffi as declarations. They hold plain C
declarations and integer #defines only; C sources never include Python.h.

Environment:
    UDPRING_SANITIZE=address,undefined   build with these sanitisers, frame pointers and -O1
    UDPRING_WERROR=1                     warnings are errors (CI)
    UDPRING_IPSECMB=0                    without Intel ipsec-mb even where its header is; 1: not without it
"""

import os
import re
import shlex
import subprocess
import sysconfig
from pathlib import Path

import cffi

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# Lowest room first: a room's abi.h may use the types of the rooms before it.
ABI = [HERE / "abi.h", *(HERE / room / "abi.h" for room in ("uring", "udp", "tunnel"))]


def declarations(path: Path) -> str:
    """The text of an abi.h as cffi takes it: without its include guard and includes."""
    kept = []
    for line in path.read_text().splitlines():
        if re.match(r"\s*#\s*(include|ifndef|endif|pragma|if|else)\b", line):
            continue
        if re.match(r"\s*#\s*define\s+\w+_H\s*$", line):
            continue
        kept.append(line)
    return "\n".join(kept)


def pkg_config(*arguments: str) -> list[str]:
    found = subprocess.run(["pkg-config", *arguments], capture_output=True, text=True, check=False)
    if found.returncode:
        raise SystemExit(
            f"pkg-config {' '.join(arguments)}: {found.stderr.strip()}: install libssl-dev and pkg-config"
        )
    return shlex.split(found.stdout)


# What aead_ipsecmb.c takes from the header. The library itself is looked for at run time only.
IPSECMB_PROBE = """
#ifndef __x86_64__
#error the cipher is there for x86-64 alone
#endif
#include <intel-ipsec-mb.h>
int main(void) { return IMB_CIPHER_CHACHA20_POLY1305 + IMB_AUTH_CHACHA20_POLY1305 + (IMB_VERSION_NUM >> 30); }
"""


def has_ipsecmb() -> bool:
    """Whether the compiler finds a header of ipsec-mb that will do (it has no pkg-config file)."""
    wanted = os.environ.get("UDPRING_IPSECMB", "")
    if wanted not in ("", "0", "1"):
        raise SystemExit(f"UDPRING_IPSECMB={wanted}: 0 builds without ipsec-mb, 1 not without it")
    if wanted == "0":
        return False
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    flags = shlex.split(os.environ.get("CPPFLAGS", "")) + shlex.split(os.environ.get("CFLAGS", ""))
    try:
        probe = subprocess.run(
            [*compiler, *flags, "-fsyntax-only", "-x", "c", "-"],
            input=IPSECMB_PROBE,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as missing:
        raise SystemExit(f"no C compiler: {missing}: install gcc, or set CC") from missing
    if probe.returncode and wanted:
        raise SystemExit(f"UDPRING_IPSECMB=1: install libipsec-mb-dev: {probe.stderr.strip()}")
    return probe.returncode == 0


def takes(compiler: list[str], flags: list[str]) -> bool:
    """Whether the compiler knows these flags on this machine."""
    try:
        probe = subprocess.run(
            [*compiler, *flags, "-Werror", "-O2", "-x", "c", "-", "-c", "-o", os.devnull],
            input="int main(void) { return 0; }",
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as missing:
        raise SystemExit(f"no C compiler: {missing}: install gcc, or set CC") from missing
    return probe.returncode == 0


# Each is left out where the compiler does not have it, and then the next of its line is tried. -U: a
# distribution's own compiler may set a lower one.
HARDENING = [
    [["-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=3"], ["-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"]],
    [["-fstack-protector-strong"]],
    [["-fstack-clash-protection"]],
    [["-fcf-protection=full"]],
    [["-mbranch-protection=standard"]],
    [["-ftrivial-auto-var-init=zero"]],
]
HARDENED_LINK = ["-Wl,-z,relro,-z,now,-z,noexecstack"]


def hardening() -> list[str]:
    """The flags of HARDENING that this compiler takes. Not for a sanitiser, whose checks they would hide."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    chosen: list[str] = []
    for line in HARDENING:
        chosen += next((flags for flags in line if takes(compiler, flags)), [])
    return chosen


def make_builder() -> cffi.FFI:
    builder = cffi.FFI()
    builder.cdef("\n".join(declarations(path) for path in ABI))
    # Every C file at any depth: a file that moves, or a new one, is named nowhere.
    sources = sorted(str(path.relative_to(ROOT)) for path in HERE.rglob("*.c"))
    compile_args = [
        "-std=gnu11",
        "-Wall",
        "-Wextra",
        "-Wno-unused-parameter",
        "-fvisibility=hidden",
        "-pthread",
        *pkg_config("--cflags", "libcrypto"),
    ]
    link_args = ["-pthread"]
    if os.environ.get("UDPRING_WERROR"):
        compile_args.append("-Werror")
    sanitizers = os.environ.get("UDPRING_SANITIZE")
    if sanitizers:
        compile_args += [
            f"-fsanitize={sanitizers}",
            "-fno-omit-frame-pointer",
            "-fno-sanitize-recover=undefined",
            "-O1",
            "-g",
        ]
        link_args.append(f"-fsanitize={sanitizers}")
    else:
        compile_args += ["-O2", "-g", *hardening()]
        link_args += HARDENED_LINK
    libraries = ["crypto"]
    macros: list[tuple[str, str | None]] = []
    if has_ipsecmb():
        macros.append(("UDPRING_IPSECMB", "1"))
        libraries.append("dl")  # its own library only before glibc 2.34
    builder.set_source(
        "udpring._core",
        "\n".join(f'#include "{path.relative_to(HERE)}"' for path in ABI),
        sources=sources,
        include_dirs=[str(HERE.relative_to(ROOT))],
        libraries=libraries,
        define_macros=macros,
        extra_compile_args=compile_args,
        extra_link_args=link_args,
    )
    return builder


ffibuilder = make_builder()
