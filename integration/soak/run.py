"""The soak: draws disturbances from a seed until the time is over. scripts/soak runs it as a program."""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lab.counters import counters
from lab.node import Program

from soak.cage import enclosed
from soak.chaos import KINDS, Kind
from soak.flows import TcpFlow, UdpTraffic
from soak.heartbeat import Heartbeat
from soak.levels import SANITIZED_SLACKS, SLACKS, Levels, cpu_seconds, measured
from soak.verdict import Happened, Verdict
from soak.watch import Watch
from soak.world import OURS, PAIRS, Place, World

#: Seconds after an event during which its permissions still hold, for datagrams in flight.
GRACE = 2.0
#: Seconds of the whole that count as warm-up for levels, at most.
WARM_UP = 300.0
#: How long a dead flow is awaited, after its bound, before all nodes start again.
LAST_WAIT = 200.0
TCP_RATE = 1_500_000
#: Seconds that TCP may be silent: its retransmissions are as far apart as the outage lasted.
TCP_STALL = 120.0
#: The share of one CPU that the nearly idle node d may use.
IDLE_SHARE = 0.4


class Soak:
    """One run. It implements ``Stage`` of chaos.py."""

    def __init__(self, options: argparse.Namespace, directory: Path) -> None:
        self.options = options
        self.seconds = options.minutes * 60
        self.rng = random.Random(options.seed)
        self.verdict = Verdict(options.seed, options.minutes)
        env = tuple(tuple(each.split("=", 1)) for each in options.env)
        watched = Path(__file__).resolve().parents[1] / "lab" / "watched.py"
        program = Program("udpring", (sys.executable, "-P", str(watched)), env)  # type: ignore[arg-type]
        self.world = World(directory, program, random.Random(self.rng.random()))
        self.slacks = SANITIZED_SLACKS if options.sanitizer_reports else SLACKS
        self.heartbeat = Heartbeat()
        self.watch = Watch(self.world, self.verdict.violated, self.heartbeat, options.sanitizer_reports)
        self.udp = UdpTraffic(self.verdict.violated, self.may_reorder, random.Random(self.rng.random()))
        self.tcp: list[TcpFlow] = []
        self.levels: dict[tuple[str, int], Levels] = {}
        self.began_at: dict[tuple[str, int], float] = {}
        self._idle_cpu = (0, 0.0, 0.0)
        self._may_reorder_until = 0.0
        self._pauses = threading.Event()

    # ---- the stage ----

    def pause(self, low: float, high: float) -> None:
        self._pauses.wait(self.rng.uniform(low, high))

    def pick(self, names: tuple[str, ...]) -> Place:
        return self.world.places[self.rng.choice(names)]

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def number(self, low: int, high: int) -> int:
        return self.rng.randint(low, high)

    def violated(self, oracle: str, text: str) -> None:
        self.verdict.violated(oracle, text)

    def may_reorder(self) -> bool:
        return time.monotonic() < self._may_reorder_until

    def flows_within(self, seconds: float, what: str) -> None:
        self._recovered(time.monotonic(), seconds, what)

    # ---- the run ----

    def run(self) -> None:
        self.world.start()
        for pair in PAIRS:
            if "d" in pair:
                continue
            for ends in (pair, pair[::-1]):
                source, target = (self.world.places[end].node for end in ends)
                for family in (4, 6):
                    self.udp.add(source, target, ends, family)
                self.tcp.append(TcpFlow(source, target, ends, self.violated, TCP_RATE))
        self.heartbeat.start()
        self.udp.start()
        for stream in self.tcp:
            stream.start()
        self.watch.start()
        self.flows_within(60, "the start")
        kinds: list[Kind] = []
        while self.verdict.age() < self.seconds:
            self.pause(1, 6)
            kinds = kinds or self._shuffled()
            self._happen(kinds.pop())
            self._take_levels()
        self._finish()

    def _shuffled(self) -> list[Kind]:
        """Each kind once, in a new random order each time."""
        kinds = [
            kind
            for kind in KINDS
            if kind.name not in self.options.without and (self.options.minutes >= 10 or not kind.long_only)
        ]
        self.rng.shuffle(kinds)
        return kinds

    def _happen(self, kind: Kind) -> None:
        happened = Happened(round(self.verdict.age(), 2), kind.name)
        self.verdict.events.append(happened)
        self.verdict.now = kind.name
        if kind.reorders:
            self._may_reorder_until = float("inf")
        began = time.monotonic()
        try:
            happened.what = kind.run(self)
        except (AssertionError, OSError) as error:
            self.violated("event", f"{kind.name}: {error!r}")
            self._start_anew()
        ended = time.monotonic()
        happened.lasted = round(ended - began, 2)
        happened.recovered = self._recovered(ended, kind.bound, f"{kind.name} ({happened.what})")
        if kind.reorders:
            self._may_reorder_until = time.monotonic() + GRACE
        self.verdict.say(
            f"{kind.name}: {happened.what}, {happened.lasted} s, flows after {happened.recovered} s"
        )
        self._idle_tunnel_works()
        self.verdict.now = ""

    def _recovered(self, since: float, bound: float, what: str) -> float | None:
        """Seconds until each flow has delivered something sent after ``since``. None and a violation if that
        takes longer than ``bound`` plus the time for which the machine was too busy."""
        if self._wait_for_flows(since, bound):
            return round(time.monotonic() - since, 2)
        dead = ", ".join(flow.name for flow in self.udp.flows if flow.newest < since)
        self.violated("progress", f"{bound:.0f} s after {what} nothing arrives of {dead}")
        if self._wait_for_flows(since, bound + LAST_WAIT):
            self.verdict.say(f"all flows again {time.monotonic() - since:.1f} s after {what}")
        else:
            self.violated(
                "progress", f"{bound + LAST_WAIT:.0f} s after {what} still nothing: all nodes start anew"
            )
            self._start_anew()
            self._wait_for_flows(time.monotonic(), 60)
        return None

    def _wait_for_flows(self, since: float, bound: float) -> bool:
        starved = self.heartbeat.starved
        while any(flow.newest < since for flow in self.udp.flows):
            if time.monotonic() > since + bound + 2 * (self.heartbeat.starved - starved):
                return False
            self._pauses.wait(0.02)
        return True

    def _start_anew(self) -> None:
        for place in self.world.places.values():
            place.away = "started anew"
            place.node.kill()
        for place in self.world.places.values():
            self.world.start_node(place)

    def _idle_tunnel_works(self) -> None:
        """The silent tunnel from a to d wakes up when it is used."""
        if not self.chance(0.3):
            return
        a, d = self.world.places["a"].node, self.world.places["d"].node
        done = a.space.run("ping", "-n", "-c", "1", "-w", "40", d.inner4, check=False, timeout=60)
        if done.returncode:
            self.violated("progress", f"the idle node d does not answer a within 40 s: {done.stdout}")

    # ---- levels ----

    def _take_levels(self) -> None:
        for name in OURS:
            place = self.world.places[name]
            key = (name, place.pid)
            if key not in self.levels:
                self.began_at[key] = time.monotonic()
                self.levels[key] = Levels(self.slacks, min(WARM_UP, self.seconds / 4))
            said = counters(place.node)
            levels = measured(place.pid) | {
                "graveyard": said["graveyard"],
                "failures": said["control"]["failures"],
            }
            for wrong in self.levels[key].take(time.monotonic() - self.began_at[key], levels):
                self.violated("leak", f"{name} (process {place.pid}): {wrong}")
            self._tables_fit(place, said["plane"])
        self._check_idle_cpu()

    def _tables_fit(self, place: Place, plane: dict[str, int]) -> None:
        peers = len(place.node.peers) + place.extra_peers
        for what, there, most in (
            ("peers", plane["peers"], peers),
            ("prefixes", plane["prefixes"], 2 * peers),
            ("keypairs", plane["keypairs"], 3 * peers),
        ):
            if there > most:
                self.violated("leak", f"{place.name} holds {there} {what}, at most {most} are configured")

    def _check_idle_cpu(self) -> None:
        pid = self.world.places["d"].pid
        now, used = time.monotonic(), cpu_seconds(pid)
        last_pid, then, before = self._idle_cpu
        if last_pid == pid and now - then < 5:
            return
        self._idle_cpu = (pid, now, used)
        if last_pid == pid and used - before > IDLE_SHARE * (now - then):
            self.violated("spin", f"the idle node d used {used - before:.1f} s of CPU in {now - then:.1f} s")

    # ---- the end ----

    def _finish(self) -> None:
        self.flows_within(30, "the end")
        now = time.monotonic()
        for stream in self.tcp:
            if now - stream.received_at > TCP_STALL:
                self.violated(
                    "progress", f"{stream.name} has brought nothing for {now - stream.received_at:.0f} s"
                )
        for each in (*self.tcp, self.udp, self.watch, self.heartbeat):
            each.stop()
        for place in self.world.places.values():
            place.away = "stopped"
            if place.name in OURS:
                place.node.stop()
                assert place.node.process
                if place.node.process.returncode:
                    self.violated(
                        "end", f"{place.name} ended with {place.node.process.returncode} on SIGTERM"
                    )
        self.watch.look_at_logs()
        self._write_figures()

    def _write_figures(self) -> None:
        figures = self.verdict.figures
        figures["levels"] = {
            f"{name} {pid}": " ".join(
                f"{what} {levels.base.get(what)}->{level}" for what, level in levels.last.items()
            )
            for (name, pid), levels in self.levels.items()
        }
        figures["memory"] = {f"{name} {pid}": levels.series for (name, pid), levels in self.levels.items()}
        figures["flows"] = {
            flow.name: f"sent {flow.next} refused {flow.refused} received {flow.order.received} "
            f"late {flow.order.late} longest gap {flow.longest_gap:.1f} s"
            for flow in self.udp.flows
        }
        figures["flows"] |= {stream.name: f"received {stream.received} bytes" for stream in self.tcp}
        figures["kept from running, s"] = round(self.heartbeat.starved, 1)
        figures["handshakes seen"] = sum(len(times) for times in self.watch.handshakes.values())
        figures["wg show answers"] = self.watch.answers
        figures["slowest answer of wg show, s"] = round(self.watch.slowest_answer, 2)


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/soak",
        description="Four nodes in namespaces of their own, three of udpring and one wireguard-go, with TCP "
        "and UDP between them, while links, addresses, routes, limits, disks, peers, keys and processes "
        "change. Looks for leaks, disorder, changed content, stalls, tracebacks and sanitiser reports. Exit "
        "code 1, with the seed and the event log, when one was found; 130 on Ctrl-C. Needs root and "
        "wireguard-go.",
    )
    parser.add_argument("--minutes", type=float, default=10, help="how long (default 10)")
    parser.add_argument("--seed", type=int, default=None, help="of the chaos (default: a new one, printed)")
    parser.add_argument("--json", action="store_true", help="the result as JSON on standard output")
    parser.add_argument(
        "--without", action="append", default=[], metavar="EVENT", choices=[kind.name for kind in KINDS],
        help="leave out a kind of event; may be repeated: " + ", ".join(kind.name for kind in KINDS),
    )  # fmt: skip
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the nodes' logs there")
    parser.add_argument(
        "--sanitized",
        action="store_true",
        help="on a core built with sanitisers, which scripts/soak builds first",
    )
    # scripts/soak uses this exit code.
    parser.add_argument("--env", action="append", default=[], help=argparse.SUPPRESS)
    parser.add_argument("--sanitizer-reports", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.minutes <= 0:
        parser.error("--minutes must be more than 0")
    if options.seed is None:
        options.seed = secrets.randbelow(1 << 32)
    return options


def soaked(options: argparse.Namespace, directory: Path) -> int:
    soak = Soak(options, directory)
    verdict = soak.verdict
    verdict.say(f"seed {options.seed}, {options.minutes} minutes, logs in {directory}")
    try:
        soak.run()
    except KeyboardInterrupt:
        verdict.say(f"interrupted; seed {options.seed}")
        raise
    print(json.dumps(verdict.json(), indent=1) if options.json else verdict.table())
    return 1 if verdict.counts else 0


def main() -> int:
    options = parsed(sys.argv[1:])
    if os.geteuid():
        print("soak: not root: run it with sudo", file=sys.stderr)
        return 3
    with tempfile.TemporaryDirectory(prefix="udpring-soak-") as made:
        directory = (options.keep or Path(made)).absolute()
        directory.mkdir(parents=True, exist_ok=True)
        return enclosed(lambda: soaked(options, directory))


if __name__ == "__main__":
    sys.exit(main())
