"""Builds udpring._core: every C file of the rooms below this folder, behind the abi.h files.

The abi.h files are read twice: by the compiler, and by cffi as declarations. They hold plain C
declarations and integer #defines only; C sources never include Python.h.

Environment:
    UDPRING_SANITIZE=address,undefined   build with these sanitisers, frame pointers and -O1
    UDPRING_WERROR=1                     warnings are errors (CI)
"""

import os
import re
import shlex
import subprocess
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


def make_builder() -> cffi.FFI:
    builder = cffi.FFI()
    builder.cdef("\n".join(declarations(path) for path in ABI))
    sources = sorted(str(path.relative_to(ROOT)) for path in [*HERE.glob("*.c"), *HERE.glob("*/*.c")])
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
        compile_args += ["-O2", "-g"]
    headers = [str(path.relative_to(ROOT)) for path in [*HERE.glob("*.h"), *HERE.glob("*/*.h")]]
    builder.set_source(
        "udpring._core",
        "\n".join(f'#include "{path.relative_to(HERE)}"' for path in ABI),
        sources=sources,
        depends=headers,
        include_dirs=[str(HERE.relative_to(ROOT))],
        libraries=["crypto"],
        extra_compile_args=compile_args,
        extra_link_args=link_args,
    )
    return builder


ffibuilder = make_builder()
