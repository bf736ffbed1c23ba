"""The C core is layered: no file depends on itself through others, no room on a higher one."""

from __future__ import annotations

from native_graph import circles, graph, objects_folder, upward


def test_no_circle_in_the_core() -> None:
    """This holds for includes and for calls."""
    assert not circles(graph(objects_folder()))


def test_rooms_use_only_what_is_below() -> None:
    assert not upward(graph(objects_folder()))


def test_a_circle_is_seen() -> None:
    made = {"a.c": {"b.c": {"f"}}, "b.c": {"c.c": {"g"}}, "c.c": {"a.c": {"h"}}, "d.c": {"a.c": {"f"}}}
    assert circles(made) == [["a.c", "b.c", "c.c"]]
    assert upward({"udp/rx.c": {"tunnel/abi.h": {"include"}}, "tunnel/abi.h": {}})
