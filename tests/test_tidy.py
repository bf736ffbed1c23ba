"""The house rules: sizes, names, comments, imports. Reads files, imports no udpring."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent
PACKAGE = TOP / "udpring"
NATIVE = PACKAGE / "native"
NOT_OURS = {
    ".git",
    ".venv",
    "build",
    "dist",
    "__pycache__",
    ".hypothesis",
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
}
NOT_OURS |= {".import_linter_cache", "udpring.egg-info"}

FILE_LINES = 500
FUNCTION_LINES = 70
# Exceptions from the limits, with reasons. An entry that is no longer needed fails the test too.
LONG_FILES: dict[str, str] = {
    "udpring/udp/send.py": "SendRing, one class: its calls, and the same calls in event loops",
    "udpring/udp/transport.py": "RingTransport, one class with all methods of asyncio's",
}
LONG_FUNCTIONS: dict[str, str] = {}


def files(folder: Path, *suffixes: str) -> list[Path]:
    found = []
    for path in folder.rglob("*"):
        inside = path.relative_to(TOP).parts
        generated = path.name.startswith(("_core.", "_bench.", "_internals.")) and path.suffix != ".pyi"
        generated = generated or path.name == "_version.py"
        wanted = path.suffix in suffixes or not suffixes
        if wanted and path.is_file() and not NOT_OURS.intersection(inside) and not generated:
            found.append(path)
    return sorted(found)


def name(path: Path) -> str:
    return path.relative_to(TOP).as_posix()


PYTHON = [*files(PACKAGE, ".py"), *files(TOP / "udpring_tools", ".py")]
C = [
    *files(NATIVE, ".c", ".h"),
    *files(TOP / "udpring_tools", ".c", ".h"),
    *files(TOP / "tests/native", ".c", ".h"),
]
TESTS = [*files(TOP / "tests", ".py"), *files(TOP / "integration", ".py")]


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=name(path))


def test_the_sources_are_found() -> None:
    assert len(PYTHON) > 5
    assert len(C) > 5


def test_files_hold_one_concept_each() -> None:
    long = {
        name(path)
        for path in [*PYTHON, *C, *files(PACKAGE, ".pyi")]
        if len(path.read_text().splitlines()) > FILE_LINES
    }
    assert long == set(LONG_FILES), f"over {FILE_LINES} lines, or listed and no longer so"


def python_functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            docstring = ast.get_docstring(node, clean=False)
            if docstring is not None:
                lines -= docstring.count("\n") + 1
            yield f"{name(path)}:{node.name}", lines


def c_functions(path: Path) -> Iterator[tuple[str, int]]:
    """Function bodies by the house style: opening and closing brace alone in the first column."""
    signature: list[str] = []
    begin = 0
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line == "{" and signature and "(" in "".join(signature):
            begin = number
        elif line == "}" and begin:
            called = re.search(r"(\w+)\s*\(", " ".join(signature))
            assert called is not None
            yield f"{name(path)}:{called.group(1)}", number - begin + 1 + len(signature)
            begin, signature = 0, []
        elif not begin:
            if (
                not line.strip()
                or line.startswith(("}", "#", "/", " *"))
                or line.rstrip().endswith((";", "*/"))
            ):
                signature = []
            else:
                signature.append(line)


def test_functions_fit_a_screen() -> None:
    long = set()
    for path in PYTHON:
        long |= {function for function, lines in python_functions(path) if lines > FUNCTION_LINES}
    for path in C:
        long |= {function for function, lines in c_functions(path) if lines > FUNCTION_LINES}
    assert long == set(LONG_FUNCTIONS), f"over {FUNCTION_LINES} lines, or listed and no longer so"


def test_the_c_functions_are_seen() -> None:
    seen = [function for path in C for function, _ in c_functions(path)]
    assert "udpring/native/base.c:ur_fail" in seen


def test_no_catch_all_modules() -> None:
    words = {"util", "utils", "common", "helper", "helpers", "misc"}
    named = [name(path) for path in files(TOP) if words & set(re.split(r"[_.\W]+", path.stem.lower()))]
    assert not named, "name the concept instead"


def test_no_paths_of_a_machine() -> None:
    here = [
        re.escape(str(Path.home())),
        re.escape(str(TOP)),
        r"/home/\w+",
        r"/Users/\w+",
        r"/root\b",
        r"/wo" + r"rk/",
    ]
    found = []
    for path in files(TOP):
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [
            f"{name(path)}: {hit.group()}"
            for hit in re.finditer("|".join(here), text)
            if path != Path(__file__)
        ]
    assert not found


def test_nothing_is_left_to_do() -> None:
    marks = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")
    found = [name(path) for path in [*PYTHON, *C] if marks.search(path.read_text())]
    assert not found, "do it, or open an issue"


@pytest.mark.parametrize(("package", "module"), [("udpring", "_core"), ("udpring_tools", "_bench")])
def test_only_native_imports_the_compiled_module(package: str, module: str) -> None:
    pattern = re.compile(
        rf"^\s*(from {package} import .*\b{module}\b|from {package}\.{module}|import {package}\.{module})",
        re.MULTILINE,
    )
    importers = [name(path) for path in PYTHON if pattern.search(path.read_text())]
    assert importers == [f"{package}/_native.py"]


def imported_by(tree: ast.Module) -> Iterator[str]:
    """The top-level packages that a module imports anywhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").split(".")[0]


def test_each_extra_is_imported() -> None:
    """A module imports each package that an extra installs, except dev."""
    extras = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    imported = {package for path in PYTHON for package in imported_by(parsed(path))}
    installed = [each for extra, packages in extras.items() if extra != "dev" for each in packages]
    assert installed
    assert {re.split(r"[^\w-]", each)[0].replace("-", "_") for each in installed} <= imported


def test_the_c_core_knows_no_python() -> None:
    assert not [name(path) for path in C if re.search(r"Python\.h|\bPy[A-Z]\w+\(", path.read_text())]


def test_tests_import_their_neighbours_by_place() -> None:
    """`from tests...` works only in the checkout, not in stages that test another build."""
    wrong = [
        name(path)
        for path in TESTS
        for node in ast.walk(parsed(path))
        if (
            isinstance(node, ast.ImportFrom)
            and not node.level
            and (node.module or "").split(".")[0] == "tests"
        )
        or (isinstance(node, ast.Import) and any(each.name.split(".")[0] == "tests" for each in node.names))
    ]
    assert not wrong


def test_headers_have_guards() -> None:
    for path in [path for path in C if path.suffix == ".h"]:
        text = path.read_text()
        guard = re.search(r"^#ifndef (UDPRING_\w+_H)\n#define \1\n", text, re.MULTILINE)
        assert guard or "#pragma once" in text, name(path)


OWNERSHIP = ("owner", "thread", "free")


def test_struct_comments_name_owner_thread_and_freer() -> None:
    """A comment before a struct names all three of owner, threads and freeing, or none."""
    found = []
    for path in C:
        for comment, struct in re.findall(
            r"/\*((?:(?!\*/).)*)\*/\s*\n(?:static )?struct (\w+) ?\{", path.read_text(), re.DOTALL
        ):
            said = [bool(re.search(rf"\b{word}", comment, re.IGNORECASE)) for word in OWNERSHIP]
            if re.search(r"\b(Owner|Thread|Freed)\b", comment) and not all(said):
                missing = [word for word, there in zip(OWNERSHIP, said, strict=True) if not there]
                found.append(f"{name(path)}: struct {struct}: no {', '.join(missing)}")
    assert not found


def sleeps_outside_loops(tree: ast.Module) -> Iterator[int]:
    inside: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.While | ast.For | ast.AsyncFor):
            inside.update(ast.walk(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node not in inside:
            called = node.func
            named = (
                called.attr
                if isinstance(called, ast.Attribute)
                else called.id
                if isinstance(called, ast.Name)
                else ""
            )
            if named == "sleep" and not (
                node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
            ):
                yield node.lineno


@pytest.mark.parametrize("path", TESTS, ids=name)
def test_tests_wait_for_a_condition(path: Path) -> None:
    """A sleep belongs into a loop that checks a condition and has a bound, or into virtual time."""
    text = path.read_text()
    assert "VirtualLoop" in text or not list(sleeps_outside_loops(ast.parse(text)))


@pytest.mark.parametrize("path", [path for path in PYTHON if path.stat().st_size], ids=name)
def test_public_names_are_documented(path: Path) -> None:
    tree = parsed(path)
    bare = [] if ast.get_docstring(tree) else ["the module"]
    for node in tree.body if path.parts[-2:] != ("native", "build.py") else []:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            overload = any(
                isinstance(each, ast.Name) and each.id == "overload" for each in node.decorator_list
            )
            public = not node.name.startswith("_") and not overload
            bare += [node.name] if public and not ast.get_docstring(node) else []
    assert not bare


INTERPRETER = r"(?:python[\d.]*\"?|sys\.executable\)?\}|\"\$(?:0|1|PYTHON|python)\")"
IN_TEXT = re.compile(rf"{INTERPRETER}((?: -[A-Za-z]+(?: \w+(?=\s-))?)*) -[mc](?![\w-])")


def unsafe_in_text(text: str) -> Iterator[str]:
    """Command lines in scripts, documents and strings: an interpreter with -m or -c and neither -P nor -I."""
    for hit in IN_TEXT.finditer(text):
        if not {"-P", "-I"} & set(hit.group(1).split()):
            yield hit.group()


def is_interpreter(node: ast.expr) -> bool:
    words = {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}
    words |= {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
    if isinstance(node, ast.Constant):
        words |= {str(node.value).rsplit("/", 1)[-1].rstrip("0123456789.")}
    return not isinstance(node, ast.List | ast.Tuple | ast.Starred) and bool({"executable", "python"} & words)


def unsafe_in_lists(tree: ast.Module) -> Iterator[int]:
    """The same for argument lists: [sys.executable, "-m", ...]."""
    for node in ast.walk(tree):
        words = (
            node.elts
            if isinstance(node, ast.List | ast.Tuple)
            else node.args
            if isinstance(node, ast.Call)
            else []
        )
        for position, word in enumerate(words):
            options = [
                each.value if isinstance(each, ast.Constant) else None for each in words[position + 1 :]
            ]
            first = next((at for at, each in enumerate(options) if each in ("-m", "-c")), None)
            if first is None or not is_interpreter(word):
                continue
            between = options[:first]
            if None not in between and not {"-P", "-I"} & set(between):
                yield word.lineno


def test_helpers_never_import_from_the_current_directory() -> None:
    """``python -m`` and ``-c`` put the current directory first in sys.path; -P and -I do not."""
    everything = [path for path in files(TOP) if path.suffix in (".py", ".sh", ".md", ".service", "")]
    found = []
    for path in everything:
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{name(path)}: {hit}" for hit in unsafe_in_text(text) if path != Path(__file__)]
        if path.suffix == ".py":
            found += [f"{name(path)}:{line}" for line in unsafe_in_lists(ast.parse(text))]
    assert not found, "add -P (or -I, which also ignores PYTHONPATH)"


def test_unsafe_command_lines_are_seen() -> None:
    unsafe = ['exec "$0" -c "$1"', "python3 -W error -m x", "{sys.executable} -m x", ".venv/bin/python -c x"]
    safe = ['"$1" -I -c x', "python3 -P -m x", "{shlex.quote(sys.executable)} -P -m x", "python setup.py -q"]
    assert [text for text in unsafe + safe if list(unsafe_in_text(text))] == unsafe
    lists = ast.parse(
        "[sys.executable, '-X', 'dev', '-c', x]\n(*a, sys.executable, '-P', '-m', x)\n"
        "run(python, '-m', x)\nrun('ping', '-c', '1')\nrun(sys.executable, script, '-c')\n"
    )
    assert list(unsafe_in_lists(lists)) == [1, 3]


DOCUMENTS = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "tests/README.md"]
DOCUMENTS += [str(path.relative_to(TOP)) for path in sorted((TOP / "docs").rglob("*.md"))]


@pytest.mark.parametrize("document", [document for document in DOCUMENTS if (TOP / document).exists()])
def test_documents_name_what_exists(document: str) -> None:
    """Each test, file or folder that a document names in backquotes exists."""
    missing = []
    text = (TOP / document).read_text()
    for quoted in re.findall(
        r"`((?:udpring|udpring_tools|tests|integration|netns-scripts|scripts|examples|native)/[^`\s]*)`", text
    ):
        path, _, test = quoted.partition("::")
        path = f"udpring/{path}" if path.startswith("native/") else path
        there = (TOP / path).exists()
        if not there or (test and not re.search(rf"def {test}\b", (TOP / path).read_text())):
            missing.append(quoted)
    assert not missing


@pytest.mark.parametrize("document", [document for document in DOCUMENTS if (TOP / document).exists()])
def test_links_of_documents_lead_somewhere(document: str) -> None:
    """Files, and headings of Markdown files with GitHub's anchors."""
    missing = []
    for link in re.findall(r"\]\(([^)\s]+)\)", (TOP / document).read_text()):
        file, _, heading = link.partition("#")
        if "://" in link:
            continue
        target = (TOP / document).parent / file if file else TOP / document
        if not target.exists() or (heading and heading not in anchors(target)):
            missing.append(link)
    assert not missing


def anchors(document: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_promise_of_security_names_its_test() -> None:
    """Rows of the section Promises. Another test checks that the tests exist."""
    text = (TOP / "docs/security.md").read_text()
    promises = text[text.index("\n## Promises\n") : text.index("\n## Inherited from WireGuard\n")]
    rows = [line for line in promises.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if row != "| promise | test |"]
    assert len(rows) > 30
    assert not [row for row in rows if not re.search(r"`(?:tests|integration)/\S+\.py::test_\w+`", row)]


def test_only_documents_that_are_there_are_referred_to() -> None:
    missing = []
    for path in [*PYTHON, *C, *TESTS, *files(TOP / "netns-scripts"), *files(TOP / "scripts")]:
        for document in re.findall(r"\b(?:docs/(?:design/)?)?[\w-]+\.md\b", path.read_text()):
            if not (TOP / document).exists():
                missing.append(f"{name(path)}: {document}")
    assert not missing
