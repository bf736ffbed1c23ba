"""Builds the fuzz harnesses, runs them, and shows what they cover. ``scripts/fuzz`` starts this.

docs/fuzzing.md explains it. Exit codes: 0 nothing found, 1 a harness stopped with a finding or did not
build, 2 bad usage, 3 the host lacks clang.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOP = HERE.parent.parent
BUILD = TOP / "build" / "fuzz"
SEEDS = HERE / "corpus"

C_HARNESSES = tuple(sorted(path.stem.removeprefix("fuzz_") for path in HERE.glob("fuzz_*.c")))
PYTHON_HARNESSES = tuple(sorted(path.stem.removeprefix("fuzz_") for path in HERE.glob("fuzz_*.py")))
# Longer inputs only make these harnesses slower.
LONGEST = {
    "plane": 1500,
    "send": 300,
    "recv": 300,
    "completions": 600,
    "packets": 400,
    "trie": 2048,
    "coalesce": 2048,
    "segment": 1024,
    "cmsg": 512,
}
# Inputs of a run with --fixed: about six seconds of each harness. The repository's corpus is part of them.
FIXED_INPUTS = {
    "cmsg": 1_000_000,
    "coalesce": 12_000,
    "completions": 40_000,
    "failures": 4_000,
    "index": 50_000,
    "netlink": 1_500_000,
    "packets": 4_000,
    "pacing": 100_000,
    "plane": 3_500,
    "recv": 6_000,
    "replay": 300_000,
    "segment": 30_000,
    "send": 6_000,
    "trie": 12_000,
    "config": 20_000,
    "uapi": 25_000,
}

SANITIZED = (
    "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined "
    "-fsanitize=fuzzer-no-link"
)
COVERED = "-O1 -g -fprofile-instr-generate -fcoverage-mapping -fsanitize=fuzzer-no-link"
# A sanitiser's error stops a harness. Harnesses check for leaks by their own counts.
ENVIRONMENT = {
    "ASAN_OPTIONS": "detect_leaks=1:allocator_may_return_null=1:detect_stack_use_after_return=0:"
    "quarantine_size_mb=8",  # a run is short: fresh pages for each allocation cost more than they find
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
}


def lacking(name: str) -> str:
    """The missing programs or libraries for this harness, as text. Empty if there are none."""
    if name in PYTHON_HARNESSES:
        if importlib.util.find_spec("atheris") is None:
            return "atheris is not installed: pyproject.toml names the platforms it has wheels for"
        return ""
    if not shutil.which("clang"):
        return "clang is not installed: sudo apt-get install clang libclang-rt-dev llvm"
    probe = subprocess.run(
        ["clang", "-fsanitize=fuzzer,address", "-x", "c", "-", "-o", "/dev/null"],
        input="int LLVMFuzzerTestOneInput(const char *b, long n) { return 0; }",
        capture_output=True,
        text=True,
        check=False,
    )
    return (
        ""
        if probe.returncode == 0
        else f"clang has no libFuzzer: sudo apt-get install libclang-rt-dev: {probe.stderr[:200]}"
    )


@contextmanager
def locked() -> Iterator[None]:
    """One build at a time, because test workers and a campaign may start together."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build(kind: str, flags: str) -> Path:
    """Builds the changed C harnesses with these flags. Returns the folder of the programs."""
    folder = BUILD / kind
    environment = os.environ | {
        "CC": "clang",
        "CFLAGS": flags,
        "OUT": str(folder / "bin"),
        "WORK": str(folder / "work"),
    }
    with locked():
        built = subprocess.run(
            [HERE / "build.sh"], env=environment, capture_output=True, text=True, check=False
        )
    if built.returncode:
        sys.stderr.write(built.stdout + built.stderr)
        raise SystemExit("fuzz: the harnesses do not build")
    return folder / "bin"


def command(name: str, binaries: Path | None) -> list[str]:
    if name in PYTHON_HARNESSES:
        return [sys.executable, "-P", str(HERE / f"fuzz_{name}.py")]
    assert binaries is not None
    return [str(binaries / name)]


def seeds(name: str) -> list[Path]:
    return sorted(path for path in (SEEDS / name).glob("*") if path.is_file())


@dataclass
class Result:
    name: str
    code: int
    executions: int
    output: str


def run(
    name: str,
    binaries: Path | None,
    arguments: list[str],
    environment: dict[str, str] | None = None,
    before: Iterable[str] = (),
) -> Result:
    done = subprocess.run(
        [*before, *command(name, binaries), *arguments],
        env=os.environ | ENVIRONMENT | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=BUILD,
        check=False,
    )
    counted = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stdout)
    return Result(name, done.returncode, int(counted.group(1)) if counted else 0, done.stdout)


def replay(name: str, binaries: Path | None) -> Result:
    """Runs each input of the repository's corpus once."""
    return run(name, binaries, [f"-artifact_prefix={BUILD}/", *map(str, seeds(name))])


def fuzz(name: str, binaries: Path | None, bound: str, corpus: Path, seed: int) -> Result:
    """Mutates inputs until ``bound``, an option of libFuzzer."""
    own = corpus / name
    for folder in (own, SEEDS / name):
        folder.mkdir(parents=True, exist_ok=True)
    return run(name, binaries, [bound, f"-seed={seed}", *common(name), str(own), str(SEEDS / name)])


def common(name: str) -> list[str]:
    """Options of every run that mutates inputs."""
    found = BUILD / "findings"
    found.mkdir(parents=True, exist_ok=True)
    return [
        f"-max_len={LONGEST.get(name, 1024)}",
        "-len_control=0",
        "-timeout=25",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
        f"-artifact_prefix={found}/{name}-",
    ]


def without_random_addresses() -> list[str]:
    """The prefix of a command. Empty if this host's containers deny personality(2)."""
    prefix = ["setarch", "-R"]
    return prefix if subprocess.run([*prefix, "true"], check=False).returncode == 0 else []


def fuzz_fixed(name: str, binaries: Path | None) -> Result:
    """Mutates a fixed number of inputs, the same in each run.

    Four things would change them: addresses, since mutations use the values that the code compares; the
    order of the corpus's folder; looking for new files there once a second; and the hashes of strings.
    """
    with tempfile.NamedTemporaryFile("w") as listed:
        listed.write(",".join(map(str, seeds(name))))
        listed.flush()
        same = [f"-runs={FIXED_INPUTS[name]}", "-seed=1", "-reload=0", f"-seed_inputs=@{listed.name}"]
        arguments = [*same, *common(name)]
        return run(name, binaries, arguments, {"PYTHONHASHSEED": "0"}, before=without_random_addresses())


def report(result: Result) -> bool:
    """True if nothing was found."""
    print(
        f"{result.name:12} {result.executions:>12,} inputs  {'FAILED' if result.code else 'ok'}", flush=True
    )
    if result.code:
        print("\n".join(result.output.splitlines()[-80:]))
        print(
            f"fuzz: mend the fault and keep its input: cp build/fuzz/findings/{result.name}-... "
            f"tests/fuzz/corpus/{result.name}/regression-WHAT"
        )
    return result.code == 0


def campaign(names: list[str], jobs: int, mutate: Callable[[str, Path | None], Result]) -> int:
    binaries = build("sanitized", SANITIZED) if any(name in C_HARNESSES for name in names) else None
    with ThreadPoolExecutor(jobs) as pool:
        good = [report(result) for result in pool.map(lambda name: mutate(name, binaries), names)]
    return 0 if all(good) else 1


def minimise(names: list[str], corpus: Path) -> int:
    """Adds inputs of the working corpus that cover more than the repository's."""
    binaries = build("sanitized", SANITIZED) if any(name in C_HARNESSES for name in names) else None
    for name in names:
        (SEEDS / name).mkdir(parents=True, exist_ok=True)
        result = run(name, binaries, ["-merge=1", "-use_counters=0", str(SEEDS / name), str(corpus / name)])
        size = sum(path.stat().st_size for path in seeds(name))
        print(f"{name:12} {len(seeds(name)):5} inputs  {size:8} bytes")
        if result.code:
            sys.stderr.write(result.output)
            return 1
    return 0


def lines_of(files: list[dict[str, object]]) -> Iterator[tuple[str, int, int]]:
    for file in files:
        path = Path(str(file["filename"])).resolve()
        if path.is_relative_to(TOP / "udpring" / "native"):
            summary = file["summary"]["lines"]  # type: ignore[index]
            if summary["count"]:
                yield (
                    path.relative_to(TOP / "udpring" / "native").as_posix(),
                    summary["covered"],
                    summary["count"],
                )


def coverage(names: list[str], corpus: Path) -> int:
    """Lines of each C file reached by the repository's corpus and by the working one."""
    for tool in ("llvm-profdata", "llvm-cov"):
        if not shutil.which(tool):
            raise SystemExit(f"fuzz: {tool} is not installed: sudo apt-get install llvm")
    chosen = [name for name in names if name in C_HARNESSES]
    binaries = build("coverage", COVERED)
    with tempfile.TemporaryDirectory() as folder:
        profiles = []
        for name in chosen:
            profiles.append(f"{folder}/{name}.profraw")
            folders = [str(path) for path in (SEEDS / name, corpus / name) if path.is_dir()]
            result = run(name, binaries, ["-runs=0", *folders], {"LLVM_PROFILE_FILE": profiles[-1]})
            if result.code:
                return int(not report(result))
        merged = f"{folder}/all.profdata"
        subprocess.run(["llvm-profdata", "merge", "-o", merged, *profiles], check=True)
        objects = [part for name in chosen for part in ("-object", str(binaries / name))]
        exported = subprocess.run(
            ["llvm-cov", "export", "-summary-only", "-instr-profile", merged, *objects],
            capture_output=True,
            text=True,
            check=True,
        )
    files = json.loads(exported.stdout)["data"][0]["files"]
    for file, covered, count in sorted(lines_of(files)):
        print(f"{file:36} {covered:5} of {count:5} lines  {100 * covered / count:6.1f} %")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz",
        description="Coverage-guided fuzzing. `coverage` shows which lines the corpora reach; `minimise` "
        "adds to tests/fuzz/corpus what the working corpus covers beyond it.",
    )
    parser.add_argument("name", nargs="*", metavar="NAME", help="harnesses, or: all, coverage, minimise")
    parser.add_argument("--list", action="store_true", help="name the harnesses")
    parser.add_argument(
        "--seconds", type=int, default=60, help="of fuzzing, shared by the harnesses named (60)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the mutations; 0, the default: another each time"
    )
    parser.add_argument(
        "--fixed",
        action="store_true",
        help="instead of --seconds, --seed and --corpus: a fixed number of inputs, the same in each run",
    )
    parser.add_argument("--jobs", type=int, default=1, help="harnesses that run at a time (1)")
    parser.add_argument(
        "--corpus",
        type=Path,
        default=BUILD / "corpus",
        help="where inputs are kept, one folder a harness (build/fuzz/corpus)",
    )
    arguments = parser.parse_args()
    every = [*C_HARNESSES, *PYTHON_HARNESSES]
    if arguments.list:
        print("\n".join(every))
        return 0
    if not arguments.name:
        parser.error("name a harness, all, coverage or minimise; --list names the harnesses")
    action = {"coverage": coverage, "minimise": minimise}.get(arguments.name[0])
    wanted = arguments.name[1:] if action else arguments.name
    names = every if wanted in ([], ["all"]) else wanted
    unknown = [name for name in names if name not in every]
    if unknown:
        parser.error(f"no harness {unknown[0]}; --list names them")
    for name in names:
        if why := lacking(name):
            print(f"fuzz: {name}: {why}", file=sys.stderr)
            if len(names) == 1 or name in C_HARNESSES:
                return 3
    names = [name for name in names if not lacking(name)]
    corpus = arguments.corpus.absolute()
    if action:
        return action(names, corpus)
    if arguments.fixed:
        return campaign(names, arguments.jobs, fuzz_fixed)
    bound = f"-max_total_time={max(1, arguments.seconds // len(names))}"
    return campaign(
        names, arguments.jobs, lambda name, binaries: fuzz(name, binaries, bound, corpus, arguments.seed)
    )


if __name__ == "__main__":
    sys.exit(main())
