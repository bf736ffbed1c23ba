"""setup.py keeps objects: it compiles changed files and links once. The project here has two C files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent

BUILDER = """
from pathlib import Path
import cffi
HERE = Path(__file__).resolve().parent
ffibuilder = cffi.FFI()
ffibuilder.cdef("int one(void); int two(void);")
ffibuilder.set_source(
    "small._core", "int one(void); int two(void);",
    sources=sorted(str(path.relative_to(HERE.parent.parent)) for path in HERE.rglob("*.c")),
)
"""


class Project:
    """A copy of setup.py with its own sources."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.native = folder / "udpring" / "native"
        self.native.mkdir(parents=True)
        (folder / "small").mkdir()
        (folder / "small" / "__init__.py").touch()
        shutil.copy(TOP / "setup.py", folder)
        (folder / "pyproject.toml").write_text(
            '[project]\nname = "small"\nversion = "1"\ndynamic = ["readme"]\n'
            '[project.urls]\nHomepage = "https://example.org"\n[tool.setuptools]\npackages = ["small"]\n'
        )
        (folder / "README.md").touch()
        (folder / "docs").mkdir()
        (folder / "docs" / "udpring@.service").touch()
        (self.native / "build.py").write_text(BUILDER)
        (self.native / "one.h").write_text("#define ONE 1\n")
        (self.native / "one.c").write_text('#include "one.h"\nint one(void) { return ONE; }\n')
        (self.native / "two.c").write_text("int two(void) { return 2; }\n")

    def build(self, **environment: str) -> set[str]:
        """Builds. Returns the names of the files made: objects and the module."""
        return self.run("build_ext", "--build-temp", "temp", "--build-lib", "lib", **environment)

    def run(self, *words: str, **environment: str) -> set[str]:
        """The same for any command of setup.py."""
        before = self._made()
        command = [sys.executable, "setup.py", "-q", *words]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert done.returncode == 0, done.stderr
        return {
            path.name.partition(".abi3")[0] for path, made in self._made().items() if before.get(path) != made
        }

    def _made(self) -> dict[Path, tuple[int, int]]:
        found = [*self.folder.glob("**/*.o"), *self.folder.glob("lib/**/*.so")]
        return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in found}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path / "project")
    assert {"one.o", "two.o", "_core"} <= made.build()
    return made


def test_an_unchanged_tree_compiles_nothing(project: Project) -> None:
    assert project.build() == set()


def test_an_edit_costs_one_object_and_a_link(project: Project) -> None:
    (project.native / "two.c").write_text("int two(void) { return 22; }\n")
    assert project.build() == {"two.o", "_core"}
    assert project.build() == set()


def test_a_header_costs_the_objects_that_include_it(project: Project) -> None:
    (project.native / "one.h").write_text("#define ONE 11\n")
    assert project.build() == {"one.o", "_core"}


def test_other_flags_compile_everything(project: Project) -> None:
    assert {"one.o", "two.o", "_core"} <= project.build(CFLAGS="-DOTHER=1")


def test_a_moved_file_is_found(project: Project) -> None:
    (project.native / "room").mkdir()
    (project.native / "two.c").rename(project.native / "room" / "two.c")
    assert project.build() == {"two.o", "_core"}


def test_a_lost_module_is_linked_again(project: Project) -> None:
    shutil.rmtree(project.folder / "lib")
    assert project.build() == {"_core"}


def test_an_object_that_did_not_compile_is_tried_again(project: Project) -> None:
    (project.native / "two.c").write_text("int two(void) { return }\n")
    with pytest.raises(AssertionError, match=r"two\.c"):
        project.build()
    (project.native / "two.c").write_text("int two(void) { return 2; }\n")
    assert project.build() <= {"two.o", "_core"}
    assert project.build() == set()


def test_an_editable_install_keeps_its_objects(project: Project) -> None:
    first = project.run("editable_wheel", "--dist-dir", "dist")
    assert {"one.o", "two.o"} <= first
    assert not {"one.o", "two.o"} & project.run("editable_wheel", "--dist-dir", "dist")
