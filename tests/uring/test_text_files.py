"""Text of files: what ``open`` of the standard library reads and writes, on both backends."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from udpring.errors import ClosedError
from udpring.uring import Reactor, TextFile, open_file

from .reactors import EACH_BACKEND, Host

NEWLINES = [None, "", "\n", "\r", "\r\n"]
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32-be", "latin-1", "shift_jis"]
PIECES = ["a", "é", "\n", "\r", "\r\n", "word", "\n\n", "\x85"]  # in all encodings but for some
CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(-1, 12)),
        st.tuples(st.just("readline"), st.integers(-1, 12)),
        st.tuples(st.just("tell")),
        st.tuples(st.just("seek"), st.integers(0, 20)),  # to a place that tell returned
        st.tuples(st.just("write"), st.text("ab\n", max_size=6)),
        st.tuples(st.just("end")),
        st.tuples(st.just("readlines"), st.just(-1)),
    ),
    max_size=15,
)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples of a test."""
    return tmp_path_factory.mktemp("texts")


def run(backend: str, main: Any) -> Any:
    return Host("asyncio", backend).run(main)


@pytest.fixture(params=EACH_BACKEND)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@example("utf-8", "", "a\r", [("readline", -1), ("read", 1)])
@example("utf-16", None, "a\r\nb", [("read", 2), ("tell",), ("read", -1), ("seek", 0), ("read", 9)])
@example("shift_jis", "\r\n", "", [("write", "\na"), ("seek", 0), ("readlines", -1)])
@settings(max_examples=120, deadline=None)
@given(
    encoding=st.sampled_from(ENCODINGS),
    newline=st.sampled_from(NEWLINES),
    content=st.lists(st.sampled_from(PIECES), max_size=30).map("".join),
    calls=CALLS,
)
def test_any_calls_do_as_in_io(
    scratch: Path,
    encoding: str,
    newline: str | None,
    content: str,
    calls: list[tuple[Any, ...]],
) -> None:
    """Before a write both get their positions: ``io`` would write behind what it has read ahead."""
    path = scratch / "file"
    path.write_bytes(content.encode(encoding, "replace"))
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())

    async def main(reactor: Reactor) -> None:
        with other.open("r+", encoding=encoding, newline=newline) as model:
            async with open_file(path, "r+", encoding=encoding, newline=newline) as file:
                places = [(0, 0)]
                for name, *arguments in calls:
                    if name == "tell":
                        places.append((await file.tell(), model.tell()))
                    elif name == "seek":
                        mine, its = places[arguments[0] % len(places)]
                        await file.seek(mine)
                        model.seek(its)
                    elif name == "end":
                        await file.seek(0, io.SEEK_END)
                        model.seek(0, io.SEEK_END)
                    elif name == "write":
                        if encoding != "latin-1":  # elsewhere it might overwrite a part of a character
                            await file.seek(0, io.SEEK_END)
                            model.seek(0, io.SEEK_END)
                        model.seek(model.tell())
                        assert await file.write(*arguments) == model.write(*arguments)
                        model.flush()
                        places = [(0, 0)]  # others may lie within a CRLF now
                        await file.seek(0, io.SEEK_END)
                        model.seek(0, io.SEEK_END)
                    else:
                        assert await getattr(file, name)(*arguments) == getattr(model, name)(*arguments)
        assert path.read_bytes() == other.read_bytes()

    run("io_uring", main)


@pytest.mark.parametrize("newline", NEWLINES, ids=repr)
def test_lines_across_pieces_are_those_of_io(tmp_path: Path, backend: str, newline: str | None) -> None:
    """Pieces of 64 KiB end anywhere: within a character and within a CRLF."""
    path = tmp_path / "file"
    lines = [f"zeile {number} äöü€😀" * (number % 50) for number in range(3000)]
    path.write_bytes("\r\n".join(lines).encode() + b"\r\rend\r")

    async def main(reactor: Reactor) -> list[str]:
        async with open_file(path, "r", encoding="utf-8", newline=newline) as file:
            return [line async for line in file]

    with path.open(encoding="utf-8", newline=newline) as file:
        assert run(backend, main) == list(file)


def test_positions_in_a_long_file(tmp_path: Path, backend: str) -> None:
    path = tmp_path / "file"
    text = "".join(f"{number} äöü€😀\n" for number in range(20_000))
    path.write_text(text, encoding="utf-8")

    async def main(reactor: Reactor) -> None:
        async with open_file(path, "r", encoding="utf-8") as file:
            for _ in range(12):
                await file.read(17_001)
                place = await file.tell()
                assert path.read_bytes()[:place].decode() == text[: len(path.read_bytes()[:place].decode())]
                ahead = await file.read(50)
                await file.seek(place)
                assert await file.read(50) == ahead
            assert await file.seek(0) == 0
            assert await file.read() == text

    run(backend, main)


def test_a_very_long_line(tmp_path: Path, backend: str) -> None:
    path = tmp_path / "file"
    path.write_text("ä" * 3_000_000 + "\nend", encoding="utf-8")

    async def main(reactor: Reactor) -> None:
        async with open_file(path, "r", encoding="utf-8") as file:
            assert len(await file.readline()) == 3_000_001
            assert await file.readline() == "end"
            assert await file.readline() == ""

    run(backend, main)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_appended_text_has_no_second_mark(tmp_path: Path, backend: str, encoding: str) -> None:
    path = tmp_path / "file"

    async def main(reactor: Reactor) -> None:
        async with open_file(path, "w", encoding=encoding) as file:
            assert isinstance(file, TextFile)
            await file.writelines(["one\n", "two\n"])
        async with open_file(path, "a", encoding=encoding) as file:
            await file.write("three\n")
        async with open_file(path, "r+", encoding=encoding) as file:
            assert await file.readlines() == ["one\n", "two\n", "three\n"]
            await file.seek(0)
            await file.write("ONE")
        async with open_file(path, encoding=encoding, mode="r") as file:
            assert await file.readlines(4) == ["ONE\n", "two\n"]
            assert await file.read() == "three\n"

    run(backend, main)


@pytest.mark.parametrize("newline", NEWLINES, ids=repr)
def test_ends_of_lines_are_translated(tmp_path: Path, backend: str, newline: str | None) -> None:
    path, other = tmp_path / "file", tmp_path / "other"

    async def main(reactor: Reactor) -> None:
        async with open_file(path, "w", newline=newline) as file:
            await file.write("one\ntwo\r\nthree")

    run(backend, main)
    with other.open("w", newline=newline) as file:
        file.write("one\ntwo\r\nthree")
    assert path.read_bytes() == other.read_bytes()


def test_properties_and_calls_of_the_file_below(tmp_path: Path, backend: str) -> None:
    path = tmp_path / "file"

    async def main(reactor: Reactor) -> None:
        async with open_file(path, "w+", encoding="ascii", errors="replace") as file:
            assert (file.name, file.mode, file.encoding, file.errors) == (path, "w+", "ascii", "replace")
            assert await file.write("schön\r\n") == 7
            assert (await file.stat()).st_size == 7
            await file.flush()
            await file.fsync()
            await file.fdatasync()
            assert await file.readable()
            assert await file.writable()
            assert await file.seekable()
            assert not await file.isatty()
            await file.seek(0)
            assert await file.read(3) == "sch"
            assert await file.truncate() == 3
            await file.seek(0)
            assert await file.read() == "sch"
            assert os.fstat(file.fileno()).st_size == 3
            assert await file.buffer.pread(2, 1) == b"ch"
        assert file.closed
        with pytest.raises(ClosedError):
            await file.read()
        async with open_file(path, "w") as file:
            await file.write("a\r\nb\r")
        async with open_file(path, "r") as file:
            await file.read()
            assert set(file.newlines or ()) == {"\r\n", "\r"}

    run(backend, main)


def test_pipes_have_text_and_no_position(tmp_path: Path, backend: str) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)

    async def main(reactor: Reactor) -> None:
        async with open_file(path, "r+") as file:
            await file.buffer.write("grün\nblau\n".encode())
            assert await file.readline() == "grün\n"
            assert await file.readline() == "blau\n"
            with pytest.raises(OSError, match="Illegal seek"):
                await file.tell()
            with pytest.raises(OSError, match="Illegal seek"):
                await file.seek(0)

    run(backend, main)


def test_undecodable_bytes_are_an_error(tmp_path: Path, backend: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"good\n\xff\n")

    async def main(reactor: Reactor) -> None:
        async with open_file(path, "r", encoding="utf-8") as file:
            with pytest.raises(UnicodeDecodeError):
                await file.read()
        async with open_file(path, "r", encoding="utf-8", errors="surrogateescape") as file:
            assert await file.read() == "good\n\udcff\n"
        async with open_file(path, "r+", encoding="ascii") as file:
            with pytest.raises(UnicodeEncodeError):
                await file.write("ä")

    run(backend, main)
    assert path.read_bytes() == b"good\n\xff\n"


@pytest.mark.parametrize(
    ("mode", "options", "word"),
    [
        ("rb", {"encoding": "utf-8"}, "for text"),
        ("wb", {"newline": "\n"}, "for text"),
        ("w", {"newline": "x"}, "newline"),
        ("w", {"direct": True}, "needs bytes"),
        ("rbt", {}, "mode"),
        ("rtt", {}, "mode"),
    ],
)
def test_impossible_options_open_nothing(
    tmp_path: Path, mode: str, options: dict[str, Any], word: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"kept")

    async def main(reactor: Reactor) -> None:
        with pytest.raises(ValueError, match=word):
            open_file(path, mode, **options)
        with pytest.raises(LookupError):
            open_file(path, "w", encoding="none such")
        with pytest.raises(LookupError):
            open_file(path, "w", errors="none such")
        async with open_file(path, "r") as file:
            for where in ((1, io.SEEK_CUR), (1, io.SEEK_END), (0, 9)):
                with pytest.raises(io.UnsupportedOperation):
                    await file.seek(*where)
            with pytest.raises(ValueError, match="position"):
                await file.seek(-1)

    run("io_uring", main)
    assert path.read_bytes() == b"kept"
