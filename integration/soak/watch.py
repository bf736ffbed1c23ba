"""Continuous checks: whether `wg show` answers, and the contents of logs and sanitiser reports."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from pathlib import Path

from soak.flows import Report
from soak.heartbeat import Heartbeat
from soak.world import Place, World

ANSWER_WITHIN = 10.0
EVERY = 2.0
BAD = re.compile(r"Traceback|Sanitizer|runtime error:|Exception in|Segmentation|panic:|Fatal Python")


class Watch:
    """A thread. ``stop`` ends it."""

    def __init__(
        self, world: World, report: Report, heartbeat: Heartbeat, sanitizer_reports: Path | None
    ) -> None:
        self.slowest_answer = 0.0
        self.answers = 0
        self.handshakes: dict[tuple[str, str], set[int]] = {}
        self._world, self._report = world, report
        self._heartbeat, self._reports = heartbeat, sanitizer_reports
        self._reported: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join(60)
        self.look_at_logs()

    def _run(self) -> None:
        try:
            while not self._over.wait(EVERY):
                for place in list(self._world.places.values()):
                    self._ask(place)
                self.look_at_logs()
        except BaseException as error:
            self._report("soak", f"the watching thread ended: {error!r}")
            raise

    def _ask(self, place: Place) -> None:
        before = place.generation
        if place.away:
            return
        began = time.monotonic()
        starved = self._heartbeat.starved
        failed = ""
        try:
            shown = place.node.wg(
                "show", place.node.interface, "latest-handshakes", timeout=6 * ANSWER_WITHIN
            )
        except (AssertionError, subprocess.TimeoutExpired) as error:
            shown, failed = "", str(error)
        took = time.monotonic() - began - (self._heartbeat.starved - starved)
        if place.away or place.generation != before:
            return  # its process was removed meanwhile
        if failed or took > ANSWER_WITHIN:
            self._report("answer", f"`wg show` of {place.name} took {took:.1f} s {failed}")
            return
        self.answers += 1
        self.slowest_answer = max(self.slowest_answer, took)
        for line in shown.splitlines():
            key, when = line.split()
            if when != "0":
                self.handshakes.setdefault((place.name, key), set()).add(int(when))

    def look_at_logs(self) -> None:
        """Moves the log to a permanent file and checks it."""
        for place in self._world.places.values():
            log = place.node.log
            if not log.exists() or not log.stat().st_size:
                continue
            text = log.read_text(errors="replace")
            log.write_text("")  # the node appends, so it continues at the beginning
            with (self._world.directory / f"{place.name}-kept.log").open("a") as kept:
                kept.write(text)
            for found in BAD.finditer(text):
                lines = text[max(0, found.start() - 300) : found.start() + 1500]
                self._report_once(f"{place.name} logged {found.group()}", lines)
        if self._reports is not None:
            for path in self._reports.parent.glob(f"{self._reports.name}.*"):
                self._report_once(f"sanitiser report {path.name}", path.read_text(errors="replace")[:3000])

    def _report_once(self, what: str, text: str) -> None:
        if text not in self._reported:
            self._reported.add(text)
            self._report("log", f"{what}: {text}")
