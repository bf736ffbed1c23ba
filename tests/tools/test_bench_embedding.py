"""``udpring bench embedding``: figures and ratios from samples, output. Nothing is timed."""

from __future__ import annotations

import argparse

import pytest

from udpring_tools.bench import embedding
from udpring_tools.commands import bench_embedding

FACTS = {
    "udpring": "0.1.0",
    "kernel": "6.18.0",
    "cpu": "A CPU",
    "cpus": 2,
    "began": "2026-01-01T00:00:00",
    "load_average": [0.1, 1.2],
    "seconds": 1.0,
    "runs": 3,
    "tier": "mmsg",
    "tier_reason": "",
    "aead": "openssl",
}


def samples(*rates: float) -> list[dict[str, float]]:
    return [dict.fromkeys(embedding.FIGURES, rate) for rate in rates]


def packets(*rates: float) -> list[dict[str, float]]:
    return [
        {"packets_s": rate, "packets_cpu_s": 2 * rate, "gbit_cpu_s": rate / 1e5, "lost": 0.0}
        for rate in rates
    ]


def test_ratios_are_taken_within_run() -> None:
    """A machine that slows down in between favours none."""
    taken = {"root": samples(4, 2, 1), "rootless tun": samples(2, 1, 0.5), "proxy socks": samples(3, 2, 0.1)}
    root, rootless, proxy = embedding.embedding_summary(taken, {})["ways"]
    assert root["goal"] is None
    assert root["figures"]["out_gbit_s"]["median"] == 2
    assert rootless["ratios"] == dict.fromkeys(embedding.FIGURES, 0.5)
    assert proxy["ratios"] == dict.fromkeys(embedding.FIGURES, 0.75)
    assert (rootless["goal"], proxy["goal"]) == (0.9, 0.5)


def test_run_without_processor_time_has_no_ratio() -> None:
    taken = {"root": samples(4), "proxy socks": [{"out_gbit_s": 2.0, "in_gbit_s": 2.0}]}
    proxy = embedding.embedding_summary(taken, {})["ways"][1]
    assert proxy["ratios"] == {
        "out_gbit_s": 0.5,
        "in_gbit_s": 0.5,
        "out_gbit_cpu_s": None,
        "in_gbit_cpu_s": None,
    }
    assert "-" in embedding.embedding_table(FACTS | embedding.embedding_summary(taken, {}))


def test_table_shows_figures_ratios_and_goals() -> None:
    taken = {"root": samples(4), "rootless packet": samples(3.5)}
    summary = embedding.embedding_summary(taken, {64: packets(3e5), 1300: packets(2e5)})
    lines = embedding.embedding_table(FACTS | summary).splitlines()
    assert lines[4].split("  ")[-2:] == ["root", "rootless packet"]
    assert lines[5].split() == ["TCP,", "out:", "Gbit/s", "4.00", "3.50", "(0.88)"]
    assert lines[9].split() == ["ratio", "to", "be", "reached", "0.90"]
    assert lines[-2].split() == ["64", "B", "600000", "3.00", "250000", "packets"]
    assert lines[-1].split() == ["1300", "B", "400000", "2.00", "3", "Gbit"]


def test_options_name_what_can_be_measured() -> None:
    assert tuple(embedding.STEPS) == bench_embedding.STEPS
    parser = argparse.ArgumentParser(exit_on_error=False)
    bench_embedding.register(parser.add_subparsers(parser_class=argparse.ArgumentParser))
    assert parser.parse_args(["embedding", "--only", "proxy,tun"]).only == ("proxy", "tun")
    with pytest.raises(SystemExit):
        parser.parse_args(["embedding", "--only", "gvisor"])
