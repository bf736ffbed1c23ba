"""``udpring bench tunnel``: options, figures from samples, output. Nothing is timed."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from udpring.cli import main as cli
from udpring.errors import ConfigError, HostError
from udpring.wireguard.cipher import Cipher
from udpring_tools.bench import comparison, host, measures, plot, program, space, table, traffic
from udpring_tools.bench.program import Program, distinct
from udpring_tools.commands import bench, bench_tunnel

TOP = Path(__file__).resolve().parents[2]

# Recorded output of `iperf3 -J` 3.12 and iputils `ping`, without the unused parts.
TCP_END = {
    "sum_sent": {"seconds": 1.00004, "bytes": 373555200, "bits_per_second": 2.98833e9, "retransmits": 12},
    "sum_received": {"seconds": 1.000327, "bytes": 372113408, "bits_per_second": 2.97593e9},
}
UDP_END = {
    "sum": {
        "seconds": 2.000115,
        "bytes": 6400000,
        "packets": 100000,
        "lost_packets": 250,
        "lost_percent": 0.25,
    }
}
PING = """PING 10.100.0.2 (10.100.0.2) 56(84) bytes of data.
64 bytes from 10.100.0.2: icmp_seq=1 ttl=64 time=0.312 ms
64 bytes from 10.100.0.2: icmp_seq=3 ttl=64 time=0.129 ms
64 bytes from 10.100.0.2: icmp_seq=4 ttl=64 time=25.1 ms

--- 10.100.0.2 ping statistics ---
4 packets transmitted, 3 received, 25% packet loss, time 15ms
rtt min/avg/max/mdev = 0.129/8.513/25.1/1.2 ms
"""
OURS = [
    {"tcp_one_gbit_s": 3.0, "udp_64_packets_s": 250000.0, "rtt_idle_p50_ms": 0.13},
    {"tcp_one_gbit_s": 4.0, "udp_64_packets_s": 230000.0, "rtt_idle_p50_ms": 0.11},
    {"tcp_one_gbit_s": 2.0, "rtt_idle_p50_ms": 0.12},
]
THEIRS = [
    {"tcp_one_gbit_s": 1.0, "udp_64_packets_s": 100000.0, "rtt_idle_p50_ms": 0.26},
    {"tcp_one_gbit_s": 0.5, "udp_64_packets_s": 115000.0, "rtt_idle_p50_ms": 0.22},
    {"tcp_one_gbit_s": 1.0, "udp_64_packets_s": 90000.0, "rtt_idle_p50_ms": 0.36},
]


def result(others: int = 1) -> dict[str, Any]:
    facts = {
        "kernel": "6.18.0",
        "machine": "x86_64",
        "cpus": 2,
        "cpu": "A CPU",
        "began": "2026-01-01T00:00:00",
    }
    reported = {
        "udpring": {"tier": "uring-pool", "tier_reason": "no multishot here", "aead": "openssl", "workers": 2}
    }
    taken = [("udpring", "udpring-wg", OURS)]
    taken += [(f"go{number}", "wireguard-go", THEIRS) for number in range(others)]
    return {
        "udpring": "0.1.0",
        **facts,
        "load_average": [0.1, 1.2],
        "seconds": 5,
        "runs": 3,
        "measures": ["rtt", "tcp", "pps"],
        **comparison.summary(taken, reported),
    }


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.register(parser.add_subparsers(dest="command"))
    return parser.parse_args(["bench", *words])


# ---- the command line ----


def test_command_help_has_the_real_names() -> None:
    assert tuple(measures.MEASURES) == bench_tunnel.MEASURES


def test_defaults_and_options() -> None:
    args = parsed("tunnel")
    assert (args.subject, args.against, args.tier, args.seconds, args.runs) == ("tunnel", [], None, 5, 3)
    assert args.only == tuple(measures.MEASURES)
    args = parsed("tunnel", "--against", "a", "--against", "b -x", "--only", "rtt,tcp", "--tier", "mmsg")
    assert (args.against, args.only, args.tier) == (["a", "b -x"], ("rtt", "tcp"), ["mmsg"])
    assert parsed("tunnel", "--workers", "1", "--workers", "2").workers == [1, 2]


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("nothing",),
        ("tunnel", "--seconds", "0"),
        ("tunnel", "--seconds", "many"),
        ("tunnel", "--runs", "0"),
        ("tunnel", "--only", "tcp,speed"),
        ("tunnel", "--only", ""),
        ("tunnel", "--tier", "fastest"),
        ("tunnel", "--cipher", "rot13"),
    ],
)
def test_wrong_usage_exits_2(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parsed(*words)
    assert left.value.code == cli.MISUSED
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--against", "no-such-program-here"], cli.HOST_CANNOT, "no-such-program-here is not installed"),
        (["--against", ""], cli.MISUSED, "names no program"),
        (["--against", "a 'b"], cli.MISUSED, "not a command line"),
    ],
)
def test_programs_that_cannot_be_run(
    words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["bench", "tunnel", *words]) == code
    assert said in capsys.readouterr().err


def test_programs_are_named_by_their_file_and_numbered() -> None:
    shell = Program.parse("sh -c 'exit 0'")
    assert shell.name == "sh"
    assert shell.argv[1:] == ("-c", "exit 0")
    assert [each.name for each in distinct([Program.ours(), shell, shell])] == ["udpring", "sh", "sh (2)"]


def test_ours_gets_its_tier_and_others_are_left_alone() -> None:
    assert ("UDPRING_TIER", "mmsg") in Program.ours("mmsg").env
    assert ("UDPRING_WORKERS", "3") in Program.ours(workers=3).env
    aes = Program.ours(cipher=Cipher.AES_256_GCM)
    assert (aes.name, aes.cipher) == ("udpring aes-256-gcm", Cipher.AES_256_GCM)
    assert Program.ours().cipher is Program.parse("sh").cipher is Cipher.CHACHA20_POLY1305
    assert [(each.name, each.cipher) for each in distinct([aes, aes])] == [
        ("udpring aes-256-gcm", Cipher.AES_256_GCM),
        ("udpring aes-256-gcm (2)", Cipher.AES_256_GCM),
    ]
    assert all(name != "UDPRING_TIER" for name, _ in (*Program.ours().env, *Program.parse("sh").env))


def test_each_combination_of_ours_has_a_name() -> None:
    assert [each.name for each in Program.variants([None], list(Cipher)[:1], [None])] == ["udpring"]
    names = [each.name for each in Program.variants(["mmsg", "uring-pool"], list(Cipher), [1, 2])]
    assert names[:3] == ["udpring mmsg workers=1", "udpring mmsg workers=2", "udpring uring-pool workers=1"]
    assert names[-1] == "udpring aes-256-gcm uring-pool workers=2"
    assert len(set(names)) == 8


def test_a_missing_tool_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "ping" else f"/bin/{name}")
    with pytest.raises(HostError, match=r"ping is not installed .*iputils-ping"):
        space.require_tools("iperf3", "ping")


# ---- output of the tools ----


def test_tcp_is_read_as_received() -> None:
    run = traffic.TcpRun.parse(TCP_END)
    assert run.gbit_per_s == pytest.approx(2.97593)
    assert run.gbit == pytest.approx(372113408 * 8e-9, rel=1e-3)
    assert run.retransmits == 12


def test_udp_counts_what_arrived() -> None:
    run = traffic.UdpRun.parse(UDP_END)
    assert (run.sent, run.arrived) == (100000, 99750)
    assert run.lost_percent == pytest.approx(0.25)
    assert run.per_second == pytest.approx(99750 / 2.000115)


def test_udp_without_a_packet_is_all_lost() -> None:
    run = traffic.UdpRun(0, 0, 0.0)
    assert (run.lost_percent, run.per_second) == (100.0, 0.0)


def test_round_trips_are_read_in_order() -> None:
    trips = traffic.RoundTrips.parse(PING, 4)
    assert trips.times == (0.129, 0.312, 25.1)
    assert trips.sent == 4


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_percentiles_are_values_and_ordered(values: list[float]) -> None:
    ordered = tuple(sorted(values))
    p50, p99 = (traffic.percentile(ordered, part) for part in (0.5, 0.99))
    assert p50 in ordered
    assert ordered[0] <= p50 <= p99 <= traffic.percentile(ordered, 1.0) == ordered[-1]


# ---- the search for the highest rate ----


def holds_up_to(limit: float) -> Callable[[float], float | None]:
    return lambda rate: 7.0 if rate <= limit else None


@given(st.floats(2e3, 450e3))
def test_the_highest_rate_is_found_within_its_step(limit: float) -> None:
    found = measures.highest_rate(holds_up_to(limit))
    assert found is not None
    assert found[0] <= limit <= found[0] * (measures.HIGHEST / measures.LOWEST) ** (2**-measures.STEPS)
    assert found[1] == 7.0


def test_no_rate_holds() -> None:
    assert measures.highest_rate(lambda rate: None) is None


def test_rate_is_tried_twice() -> None:
    tried: list[float] = []

    def every_second(rate: float) -> float | None:
        tried.append(rate)
        return 1.0 if tried.count(rate) == 2 else None

    found = measures.highest_rate(every_second)
    assert found is not None
    assert found[0] > measures.HIGHEST * 0.95
    assert len(tried) == 2 * measures.STEPS


# ---- medians and ratios ----


def test_a_figure_is_the_median_of_its_runs() -> None:
    figures = result()["programs"][0]["figures"]
    assert figures["tcp_one_gbit_s"] == {"median": 3.0, "runs": [3.0, 4.0, 2.0]}
    assert figures["udp_64_packets_s"] == {"median": 240000.0, "runs": [250000.0, 230000.0, None]}
    assert "resident_mib" not in figures


def test_ratio_is_median_of_run_ratios() -> None:
    ratios = result()["ratios"][0]
    assert ratios["to"] == "go0"
    # 3/1, 4/0.5, 2/1: the median of the ratios differs from the ratio of the medians, 3/1
    assert ratios["figures"]["tcp_one_gbit_s"] == 3.0
    assert ratios["figures"]["udp_64_packets_s"] == 2.25  # of 2.5 and 2.0
    assert ratios["figures"]["rtt_idle_p50_ms"] == 0.5


def test_ratio_needs_nonzero_figures_of_both() -> None:
    taken = [("a", "a", [{"tcp_one_gbit_s": 1.0}]), ("b", "b", [{"tcp_one_gbit_s": 0.0}]), ("c", "c", [{}])]
    assert [each["figures"] for each in comparison.summary(taken)["ratios"]] == [{}, {}]


def test_figures_have_unique_keys_and_titles() -> None:
    """Each title has its unit."""
    assert len({figure.key for figure in measures.FIGURES}) == len(measures.FIGURES)
    assert len({(figure.title, figure.unit) for figure in measures.FIGURES}) == len(measures.FIGURES)
    for group in {figure.group for figure in measures.FIGURES} - {""}:
        inside = [figure for figure in measures.FIGURES if figure.group == group]
        assert len({(figure.unit, figure.lower_is_better) for figure in inside}) == 1, group


def test_the_host_is_described() -> None:
    facts = host.host_facts()
    assert facts["kernel"]
    assert facts["cpus"] >= 1
    assert json.loads(json.dumps(facts)) == facts


# ---- output ----


def test_the_result_is_json() -> None:
    assert json.loads(json.dumps(result())) == result()
    assert not any(isinstance(value, float) and math.isnan(value) for value in result().values())


def test_the_table_shows_every_program_and_ratio() -> None:
    lines = table.comparison_table(result(others=2)).splitlines()
    assert lines[0] == "udpring 0.1.0: tier uring-pool, AEAD openssl, 2 workers"
    assert lines[1].strip() == "no multishot here"
    assert "load average 0.1 before, 1.2 after" in lines[3]
    head = lines[5].split()
    assert head == ["unit", "udpring", "go0", "go1", "udpring", "/", "go0", "udpring", "/", "go1"]
    assert lines[6].split() == ["TCP,", "one", "stream", "Gbit/s", "3.00", "1.00", "1.00", "3.00", "3.00"]
    assert len(lines) == 6 + 3


def test_missing_figure_is_a_dash() -> None:
    whole = result()
    del whole["programs"][1]["figures"]["tcp_one_gbit_s"]
    del whole["ratios"][0]["figures"]["tcp_one_gbit_s"]
    assert table.comparison_table(whole).splitlines()[6].split()[-3:] == ["3.00", "-", "-"]


def test_the_table_of_ours_alone_has_no_ratio() -> None:
    assert " / " not in table.comparison_table(result(others=0)).splitlines()[5]


# ---- the picture ----


def test_missing_matplotlib_fails_before_any_run(tmp_path: Path) -> None:
    """The message names the cure."""
    program = (
        "import sys; sys.modules['matplotlib'] = None; from udpring.cli.main import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, "bench", "tunnel", "--plot", str(tmp_path / "a.png")],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=TOP,
        check=False,
    )
    assert done.returncode == cli.HOST_CANNOT
    assert "matplotlib is not installed" in done.stderr
    assert "pip install 'udpring[plot]'" in done.stderr
    assert done.stderr.count("\n") == 1


needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed: pip install .[plot]"
)


@needs_matplotlib
@pytest.mark.parametrize("others", [0, 1, 7])
def test_the_picture_is_a_png(tmp_path: Path, others: int) -> None:
    path = tmp_path / "picture.png"
    plot.draw(result(others), path)
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


@needs_matplotlib
def test_a_picture_of_nothing_is_drawn_too(tmp_path: Path) -> None:
    whole = result(0)
    whole["programs"][0]["figures"] = {}
    plot.draw(whole, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size


@needs_matplotlib
def test_unwritable_plot_path_fails_at_once(tmp_path: Path) -> None:
    """The command fails before it measures anything."""
    for path in (tmp_path, tmp_path / "none" / "picture.png"):
        with pytest.raises(ConfigError, match="cannot be written"):
            plot.require_drawable(path)


@pytest.mark.parametrize(("words", "reason"), [("", None), (" (io_uring is denied)", "io_uring is denied")])
def test_tier_is_read_from_the_log(words: str, reason: str | None) -> None:
    """The daemon names a reason only if there is one."""
    line = f"wg0 is up: tier mmsg{words}, AEAD aes-256-gcm by openssl, 2 workers, UDP port 5, UAPI at /run/x"
    found = program._UP.search(line)
    assert found
    assert found.groups() == ("mmsg", reason, "aes-256-gcm by openssl", "2")
