"""Builds udpring._core: every C file of the rooms below this folder, behind the abi.h files.

The abi.h files are read twice: by the compiler, and by cffi as declarations. They hold plain C
declarations, integer #defines and lists of names (X-macros) only; C sources never include Python.h.

The benchmarks and the tests have extensions of their own (udpring_tools/native, tests/native). The same flags
build them, so they share the objects of the core.

Environment:
    UDPRING_SANITIZE=address,undefined   build with these sanitisers, frame pointers and -O1
    UDPRING_WERROR=1                     warnings are errors (CI)
    UDPRING_IPSECMB=0                    without Intel ipsec-mb even where its header is; 1: not without it
    UDPRING_LIBRARIES=FOLDER             libcrypto as an archive and ipsec-mb beside the modules, as
                                         scripts/wheel-libraries makes them. For wheels
"""

import os
import re
import runpy
import shlex
import subprocess
import sysconfig
from pathlib import Path

import cffi

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# Lowest room first: a room's abi.h may use the types of the rooms before it.
ABI = [
    HERE / "abi.h",
    *(HERE / room / "abi.h" for room in ("uring", "uring/net", "udp", "tunnel", "tunnel/crypto")),
]
# Loaded by its path: the package itself needs the module that is built here.
abi_hash = runpy.run_path(str(HERE.parent / "_abi.py"))["abi_hash"]


def cc() -> list[str]:
    """The C compiler, as a command."""
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")


def run_cc(arguments: list[str], source: str) -> subprocess.CompletedProcess[str]:
    """The compiler's output for a source on its standard input."""
    try:
        return subprocess.run(
            [*cc(), *arguments, "-x", "c", "-"], input=source, capture_output=True, text=True, check=False
        )
    except OSError as missing:
        raise SystemExit(f"no C compiler: {missing}: install gcc, or set CC") from missing


def declarations(abi: list[Path]) -> str:
    """The text of these abi.h for cffi: without includes, with expanded lists, and the #defined integers."""
    text = "\n".join(path.read_text() for path in abi)
    expanded = run_cc(["-E", "-P"], re.sub(r"(?m)^\s*#\s*include\b.*$", "", text))
    if expanded.returncode:
        raise SystemExit(f"the abi.h files cannot be preprocessed: {expanded.stderr.strip()}")
    integers = re.findall(r"(?m)^#define UDPRING_\w+ +(?:0x)?[0-9a-fA-F]+[uUlL]*\b", text)
    return "\n".join([*integers, expanded.stdout])


def pkg_config(*arguments: str) -> list[str]:
    found = subprocess.run(["pkg-config", *arguments], capture_output=True, text=True, check=False)
    if found.returncode:
        raise SystemExit(
            f"pkg-config {' '.join(arguments)}: {found.stderr.strip()}: install libssl-dev and pkg-config"
        )
    return shlex.split(found.stdout)


# The declarations that aead_ipsecmb.c needs. The library itself is loaded at run time.
IPSECMB_PROBE = """
#ifndef __x86_64__
#error the cipher is there for x86-64 alone
#endif
#include <intel-ipsec-mb.h>
int main(void) { return IMB_CIPHER_CHACHA20_POLY1305 + IMB_AUTH_CHACHA20_POLY1305 + (IMB_VERSION_NUM >> 30); }
"""


def bundled() -> Path | None:
    """The folder of the libraries that a wheel brings along. None: those of the host are used."""
    named = os.environ.get("UDPRING_LIBRARIES")
    if not named:
        return None
    folder = Path(named).resolve()
    if not (folder / "lib" / "libcrypto.a").exists():
        raise SystemExit(f"UDPRING_LIBRARIES={named}: no lib/libcrypto.a there: see scripts/wheel-libraries")
    return folder


def has_ipsecmb() -> bool:
    """Whether the compiler finds a suitable header of ipsec-mb (it has no pkg-config file)."""
    wanted = os.environ.get("UDPRING_IPSECMB", "")
    if wanted not in ("", "0", "1"):
        raise SystemExit(f"UDPRING_IPSECMB={wanted}: 0 builds without ipsec-mb, 1 requires it")
    if wanted == "0":
        return False
    flags = shlex.split(os.environ.get("CPPFLAGS", "")) + shlex.split(os.environ.get("CFLAGS", ""))
    if folder := bundled():
        flags = [f"-I{folder / 'include'}", *flags]
    probe = run_cc([*flags, "-c", "-o", os.devnull], IPSECMB_PROBE)
    if probe.returncode and wanted:
        raise SystemExit(f"UDPRING_IPSECMB=1: install libipsec-mb-dev: {probe.stderr.strip()}")
    return probe.returncode == 0


def takes(flags: list[str]) -> bool:
    """Whether the compiler accepts these flags on this machine."""
    probe = run_cc([*flags, "-Werror", "-O2", "-c", "-o", os.devnull], "int main(void) { return 0; }")
    return probe.returncode == 0


# A flag that the compiler lacks is left out, and the next one of its line is tried. -U: a distribution's own
# compiler may set a lower one.
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
    """The flags of HARDENING that this compiler accepts. Not with a sanitiser, whose checks they would
    hide."""
    chosen: list[str] = []
    for line in HARDENING:
        chosen += next((flags for flags in line if takes(flags)), [])
    return chosen


def sources(folder: Path, pattern: str = "**/*.c") -> list[str]:
    """C files as setuptools wants them: no list names new or moved files."""
    return sorted(str(path.relative_to(ROOT)) for path in folder.glob(pattern))


def settings() -> dict[str, object]:
    """Compiler and linker: the same for each extension, so that a source they share is compiled once."""
    compile_args = [
        "-std=gnu11",
        "-Wall",
        "-Wextra",
        "-Wno-unused-parameter",
        "-fvisibility=hidden",
        "-pthread",
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
    includes = [str(HERE.relative_to(ROOT))]
    libraries: list[str] = []
    archives: list[str] = []
    macros: list[tuple[str, str | None]] = []
    folder = bundled()
    if folder:
        includes += [str(folder / "include"), str(folder / "include" / "python")]
        archives.append(str(folder / "lib" / "libcrypto.a"))
        # The archive's functions must not take the place of another libcrypto's in the process.
        link_args += ["-Wl,-s,--gc-sections", f"-Wl,--version-script={HERE / 'module.map'}"]
    else:
        compile_args += pkg_config("--cflags", "libcrypto")
        libraries.append("crypto")
    if has_ipsecmb():
        macros.append(("UDPRING_IPSECMB", "1"))
        libraries.append("dl")  # glibc before 2.34 has a separate libdl
        beside = list(folder.glob("lib/libIPSec_MB.so.*")) if folder else []
        if beside:  # the path from the folder of either module
            macros.append(("UDPRING_BUNDLED_IPSECMB", f'"../udpring/_libs/{beside[0].name}"'))
    return {
        "include_dirs": includes,
        "extra_objects": archives,
        "libraries": libraries,
        "define_macros": macros,
        "extra_compile_args": compile_args,
        "extra_link_args": link_args,
    }


def make_builder(
    module: str, abi: list[Path], files: list[str], version: tuple[str, str], types_of: cffi.FFI | None = None
) -> cffi.FFI:
    """Of one extension. ``version``: the name of a function, and the text that it returns. ``types_of``: the
    extension that has the types which these abi.h use."""
    builder = cffi.FFI()
    if types_of is not None:
        builder.include(types_of)
    function, text = version
    builder.cdef(f"{declarations(abi)}\nconst char *{function}(void);")
    headers = [os.path.relpath(path, HERE) for path in (*(ABI if types_of is not None else ()), *abi)]
    builder.set_source(
        module,
        "\n".join(f'#include "{header}"' for header in headers)
        + f'\nstatic const char *{function}(void) {{ return "{text}"; }}',
        sources=files,
        **SETTINGS,
    )
    return builder


SETTINGS = settings()
ffibuilder = make_builder("udpring._core", ABI, sources(HERE), ("udpring_abi_hash", abi_hash(HERE)))
