"""The parts that pyproject.toml cannot express: cffi's hook, the tag of the abi3 wheel, kept objects, a
reproducible sdist, and the long description."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import time
import tomllib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

if sysconfig.get_config_var("Py_GIL_DISABLED"):
    raise SystemExit(
        "udpring does not support free-threaded Python: its core and its rings rely on the GIL. "
        "Install it with a regular build of Python 3.11 or newer."
    )

# The libraries that a wheel brings along, as scripts/wheel-libraries makes them.
LIBRARIES = os.environ.get("UDPRING_LIBRARIES", "")


class BuildKeepingObjects(build_ext):
    """Compiles an object only if its command or one of its input files has changed.

    setuptools compiles every object each time. Here the compiler lists the files it reads (-MD), and a record
    in the folder of the objects keeps the command and the time and size of each of those files.
    """

    def finalize_options(self) -> None:
        super().finalize_options()
        if self.build_temp.endswith(".build-temp"):  # the folder of an editable install, which removes it
            name = f"temp.{self.plat_name}-{sys.implementation.cache_tag}"
            self.build_temp = str(Path("build") / name)

    def run(self) -> None:
        super().run()
        if LIBRARIES and not self.inplace:
            beside = Path(self.build_lib) / "udpring" / "_libs"
            beside.mkdir(parents=True, exist_ok=True)
            for path in (*Path(LIBRARIES).glob("lib/*.so.*"), *Path(LIBRARIES).glob("notices/LICENSE.*")):
                shutil.copy(path, beside)

    def build_extension(self, ext: Extension) -> None:
        compiler: Any = self.compiler
        compile_one, link = compiler._compile, compiler.link
        running: list[Future[None]] = []

        def keep_or_compile(obj: str, *arguments: Any) -> None:
            command = [*compiler.compiler_so, *map(str, arguments)]
            if not is_current(f"{obj}.json", obj, command):
                running.append(pool.submit(compile_and_record, command, obj, *arguments))

        def compile_and_record(
            command: list[str], obj: str, src: str, ext: str, cc: list[str], post: list[str], pp: list[str]
        ) -> None:
            began = time.time_ns()
            compile_one(obj, src, ext, cc, [*post, "-MD", "-MF", f"{obj}.d"], pp)
            inputs = Path(f"{obj}.d").read_text().replace("\\\n", " ").split(":", 1)[1].split()
            record(f"{obj}.json", obj, command, inputs, began)

        def keep_or_link(kind: str, objects: list[str], output: str, *rest: Any, **named: Any) -> None:
            for each in running:
                each.result()
            kept = Path(self.build_temp) / f"{Path(output).name}.json"
            command = [*compiler.linker_so, kind, *map(str, objects), output, repr(rest), repr(named)]
            if not is_current(kept, output, command):
                began = time.time_ns()
                link(kind, objects, output, *rest, **named)
                record(kept, output, command, objects, began)

        if "bdist_wheel" in self.distribution.commands and not LIBRARIES:
            # Two thirds of a wheel would be debug information. The symbols stay, for perf and backtraces.
            ext.extra_link_args.append("-Wl,--strip-debug")
        compiler._compile, compiler.link = keep_or_compile, keep_or_link
        # setuptools' own check of dates knows neither commands nor included headers.
        self.force = compiler.force = True
        try:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                super().build_extension(ext)
        finally:
            compiler._compile, compiler.link = compile_one, link


def state(path: str) -> list[int]:
    """The time and size of a file. [] if it does not exist."""
    try:
        found = Path(path).stat()
    except OSError:
        return []
    return [found.st_mtime_ns, found.st_size]


def is_current(kept: str | Path, made: str, command: list[str]) -> bool:
    """Whether the file is unchanged, and the command would make it again from the same inputs."""
    try:
        before = json.loads(Path(kept).read_text())
    except (OSError, ValueError):
        return False
    files = before["files"].items()
    return (
        made in before["files"]
        and before["command"] == command
        and all(state(f) == seen for f, seen in files)
    )


def record(kept: str | Path, made: str, command: list[str], inputs: list[str], began: int) -> None:
    """Discards a file whose inputs changed while it was made."""
    files = {path: state(path) for path in inputs}
    if all(seen and seen[0] < began for seen in files.values()):
        Path(kept).write_text(json.dumps({"command": command, "files": {**files, made: state(made)}}))
    else:
        Path(kept).unlink(missing_ok=True)


class ReproducibleSdist(sdist):
    """Two builds of the same sources give the same bytes: names are sorted, and the builder's times, owners
    and umask are left out."""

    def make_archive(
        self, base_name: Any, format: str, root_dir: Any = None, base_dir: Any = None, *_: Any, **__: Any
    ) -> str:
        if format != "gztar":
            raise SystemExit(f"sdist --formats={format}: udpring has only gztar")
        when = source_date()
        made = f"{base_name}.tar.gz"
        Path(made).parent.mkdir(parents=True, exist_ok=True)
        with (
            Path(made).open("wb") as file,
            gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=when) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for path in sorted(Path(root_dir or ".", base_dir).rglob("*")):
                if path.is_file():
                    entry = archive.gettarinfo(path, path.relative_to(root_dir or ".").as_posix())
                    entry.uid = entry.gid = 0
                    entry.uname = entry.gname = ""
                    entry.mtime = when
                    entry.mode = 0o755 if entry.mode & 0o100 else 0o644
                    entry.type = tarfile.REGTYPE  # a copy by hard link would be stored as a link
                    entry.size = path.stat().st_size
                    with path.open("rb") as content:
                        archive.addfile(entry, content)
        return made


def source_date() -> int:
    """Of SOURCE_DATE_EPOCH, or of the commit. Without either 1980, the first year of a zip file."""
    if said := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(said)
    try:
        found = subprocess.run(
            ["git", "log", "-1", "--format=%ct"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return 315532800
    return int(found.stdout)


def long_description() -> str:
    """README.md with absolute links: a package index shows it far from the files that it links to."""
    home = tomllib.loads(Path("pyproject.toml").read_text())["project"]["urls"]["Homepage"]
    text = Path("README.md").read_text()
    return re.sub(r"\]\((?!https?:|#)([^)\s]+)\)", rf"]({home}/blob/main/\1)", text)


# The tools may be left out. No wheel holds what only tests call: the scripts that run tests ask for it.
modules = ["udpring/native/build.py", "udpring_tools/native/build.py"]
if os.environ.get("UDPRING_TESTS"):
    modules.append("tests/native/build.py")

setup(
    # Where systemd looks, if the prefix is /usr/local. `udpring unit` prints it for other prefixes.
    data_files=[("lib/systemd/system", ["docs/udpring@.service"])],
    cffi_modules=[f"{module}:ffibuilder" for module in modules if Path(module).exists()],
    cmdclass={"build_ext": BuildKeepingObjects, "sdist": ReproducibleSdist},
    long_description=long_description(),
    long_description_content_type="text/markdown",
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
