"""``udpring bench chart``: results of the documentation as pictures, and the panels of each kind."""

from __future__ import annotations

import argparse
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from udpring.errors import ConfigError
from udpring_tools.bench.plot import panels_of
from udpring_tools.commands import bench

PERFORMANCE = Path(__file__).resolve().parents[2] / "docs" / "performance"
DRAWN = [
    "handshakes",
    "handshakes-rate",
    "peers",
    "setup",
    "tiers",
    "tunnel",
    "udp",
    "udp-515ad96",
    "uring",
    "uring-servers",
]

needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed: pip install .[plot]"
)


def chart(result: Path, picture: Path, *options: str) -> int:
    parser = argparse.ArgumentParser()
    bench.register(parser.add_subparsers(dest="command"))
    return bench.run(parser.parse_args(["bench", "chart", str(result), str(picture), *options]))


def committed(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((PERFORMANCE / f"{name}.json").read_text())
    return result


def figure(median: float) -> dict[str, Any]:
    return {"median": median, "runs": [median, None, median + 1]}


@needs_matplotlib
@pytest.mark.parametrize("name", DRAWN)
def test_committed_results_are_drawn(name: str, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    assert chart(PERFORMANCE / f"{name}.json", picture) == 0
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


@needs_matplotlib
@pytest.mark.parametrize("text", ["[]", "{}", '{"programs": 1}', '{"rows": [{}]}', "nothing", '"flood"'])
def test_other_files_are_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        chart(file, tmp_path / "picture.png")
    assert refused.value.file == str(file)
    assert not (tmp_path / "picture.png").exists()


@needs_matplotlib
def test_missing_file_and_unwritable_picture_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        chart(tmp_path / "none.json", tmp_path / "picture.png")
    with pytest.raises(ConfigError, match="cannot be written"):
        chart(PERFORMANCE / "setup.json", tmp_path / "none" / "picture.png")


@needs_matplotlib
def test_earlier_version_is_drawn_beside_a_result_of_udp(tmp_path: Path) -> None:
    earlier = tmp_path / "earlier.json"
    earlier.write_text(json.dumps(committed("udp") | {"udpring": "0.0.1"}))
    alone, both = tmp_path / "alone.png", tmp_path / "both.png"
    assert chart(PERFORMANCE / "udp.json", alone) == 0
    assert chart(PERFORMANCE / "udp.json", both, "--earlier", str(earlier)) == 0
    assert alone.read_bytes() != both.read_bytes()
    with pytest.raises(ConfigError, match="no result of bench udp"):
        chart(PERFORMANCE / "setup.json", both, "--earlier", str(earlier))
    for text in ("{}", "[]"):
        earlier.write_text(text)
        with pytest.raises(ConfigError, match="no result of bench udp") as refused:
            chart(PERFORMANCE / "udp.json", both, "--earlier", str(earlier))
        assert refused.value.file == str(earlier)
    with pytest.raises(ConfigError, match="cannot be read"):
        chart(PERFORMANCE / "udp.json", both, "--earlier", str(tmp_path / "none.json"))


def test_setup_has_a_panel_for_each_unit() -> None:
    panels = panels_of(committed("setup"))
    assert [(panel.title, panel.unit, len(panel.labels)) for panel in panels] == [
        ("Start", "ms", 1),
        ("Memory", "MiB", 2),
        ("Commands, with all peers", "s", 3),
    ]
    assert all(
        [name for name, _ in panel.series] == ["udpring", "wireguard-go", "515ad96"] for panel in panels
    )


def test_handshakes_have_panels_of_the_parts_that_ran() -> None:
    other = {"name": "wireguard-go", "handshakes_s": figure(5000), "cpu_ms_per_handshake": figure(0.27)}
    ours = {"handshakes_s": figure(6000), "cpu_ms_per_handshake": figure(0.26)}
    loop = {"situations": [{"situation": "quiet", "p50_ms": figure(0.1), "p99_ms": figure(1)}]}
    flood = {"rate": 1000, "phases": [{"phase": "quiet", "gbit_s": figure(6)}]}
    result: dict[str, Any] = {"handshakes": ours, "against": [other], "flood": flood, "loop": loop}
    titles = ["Handshakes", "CPU time of a handshake", "TCP under 1000 bogus initiations a second"]
    titles += ["Delay of the event loop, p50", "Delay of the event loop, p99"]
    assert [panel.title for panel in panels_of(result)] == titles
    assert [panel.title for panel in panels_of(result | {"loop": None, "handshakes": None})] == titles[2:3]
    rate = panels_of(result)[0]
    assert [(name, given[0] and given[0]["median"]) for name, given in rate.series] == [
        ("udpring", 6000),
        ("wireguard-go", 5000),
    ]
    assert not rate.lower_is_better


def test_peers_have_their_cost_and_memory() -> None:
    cost, memory = panels_of(committed("peers"))
    assert cost.labels[0] == "1 peer"
    assert len(cost.labels) == len(cost.series[0][1]) == len(memory.series[0][1])
    assert (cost.unit, memory.unit) == ("ns", "MiB")
