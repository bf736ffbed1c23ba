"""Pictures of commands on a terminal, for the documentation: what tmux captured, as SVG.

1. A node with N peers starts by `udpring up` in a network namespace. Up to LIVE of them are nodes without a
   device in a second process, and exchange echoes with it at rates of their own. The others have no endpoint.
2. tmux runs the command at each size. Its screen is taken when it shows rates.
3. The text and its attributes (SGR) become an SVG.

Usage: pictures.py [FOLDER]
"""

from __future__ import annotations

import asyncio
import html
import ipaddress
import os
import re
import secrets
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
UDPRING = str(TOP / ".venv/bin/udpring")
SIZES = ((80, 24), (160, 50))
PEERS = (1, 12, 300)
LIVE = 12
NAMES = (
    "garden shed",
    "laptop",
    "phone",
    "office",
    "backup",
    "camera",
    "\u6771\u4eac",
    "printer on the roof",
)
WAIT = 60.0
CELL, LINE, MARGIN = 8.43, 18, 12
STYLES = {1: "font-weight:bold", 2: "opacity:.55", 4: "text-decoration:underline", 32: "fill:#8ccf7e"}
BACK, FORE = "#16181d", "#d7dae0"

_SGR = re.compile("\x1b\\[([0-9;]*)m")


def run(*words: str, text: str | None = None) -> str:
    """Runs a program. Raises CalledProcessError."""
    return subprocess.run(words, input=text, capture_output=True, text=True, check=True, timeout=60).stdout


# ---- the picture ----


def spans(line: str, now: set[int]) -> Iterator[tuple[frozenset[int], str]]:
    """The parts of a captured line with their attributes. ``now``: those at its begin, then at its end."""
    at = 0
    for match in _SGR.finditer(line):
        if match.start() > at:
            yield frozenset(now), line[at : match.start()]
        at = match.end()
        for code in (int(each or 0) for each in match[1].split(";")):
            if code == 0:
                now.clear()
            elif code in (22, 24, 27, 39):
                now -= {22: {1, 2}, 24: {4}, 27: {7}, 39: {32}}[code]
            else:
                now.add(code)
    if at < len(line):
        yield frozenset(now), line[at:]


def svg(lines: list[str], columns: int, rows: int, title: str) -> str:
    """Each character has a place of its own, whatever font the reader has."""
    width, height = round(columns * CELL + 2 * MARGIN), rows * LINE + 2 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img">',
        f"<title>{html.escape(title)}</title>",
        f'<rect width="100%" height="100%" rx="6" fill="{BACK}"/>',
        f'<g font-family="DejaVu Sans Mono,Menlo,Consolas,monospace" font-size="14" fill="{FORE}" '
        'xml:space="preserve">',
    ]
    now: set[int] = set()
    for number, line in enumerate(lines[:rows]):
        x, y = float(MARGIN), MARGIN + (number + 1) * LINE - 5
        for codes, text in spans(line, now):
            cells = sum(2 if ord(each) > 0x2E7F else 1 for each in text)
            style = ";".join(words for code, words in STYLES.items() if code in codes)
            fill = ""
            if 7 in codes:
                size = f'width="{cells * CELL:.1f}" height="{LINE}"'
                parts.append(f'<rect x="{x:.1f}" y="{y - 13}" {size} fill="{FORE}"/>')
                fill = f' fill="{BACK}"'
            if text.strip() or 4 in codes:
                parts.append(
                    f'<text x="{x:.1f}" y="{y}" textLength="{cells * CELL:.1f}"{fill}'
                    f"{f' style={chr(34)}{style}{chr(34)}' if style else ''}>{html.escape(text)}</text>"
                )
            x += cells * CELL
    return "\n".join((*parts, "</g>", "</svg>", ""))


# ---- the terminal ----


def captured(command: str, columns: int, rows: int, ready: str, *, history: bool = False) -> list[str]:
    """The screen when it has the text ``ready``. ``history``: also lines that have scrolled away."""
    with tempfile.TemporaryDirectory() as folder:
        tmux = ("tmux", "-S", f"{folder}/socket", "-f", "/dev/null")
        size = ("-x", str(columns), "-y", str(rows))
        run(
            *tmux,
            "new-session",
            "-d",
            *size,
            "env",
            "TERM=tmux-256color",
            "sh",
            "-c",
            f"{command}; sleep 600",
        )
        try:
            end = time.monotonic() + WAIT
            while True:
                shown = run(*tmux, "capture-pane", "-p", "-e", "-N", *(("-S", "-") if history else ()))
                plain = _SGR.sub("", shown)
                if re.search(ready, plain):
                    break
                assert time.monotonic() < end, f"{command} does not show {ready!r}:\n{plain}"
                time.sleep(0.2)
        finally:
            run(*tmux, "kill-server")
    lines = [line.rstrip() for line in shown.rstrip("\n").split("\n")]
    while history and not _SGR.sub("", lines[-1]).strip():
        lines.pop()
    return lines


# ---- the node and its peers ----


def wg(*words: str, text: str | None = None) -> str:
    """A key."""
    return run("wg", *words, text=text).strip()


class Hub:
    """A node in a namespace, and the processes of its peers in another."""

    def __init__(self, folder: Path, count: int) -> None:
        name = secrets.token_hex(3)
        self.here, self.there = f"pic{name}a", f"pic{name}b"
        self.interface = f"p{name}"
        self._folder = folder
        self._private = [wg("genkey") for _ in range(min(count, LIVE))]
        self.key = wg("genkey")
        self.file = folder / f"{self.interface}.conf"
        sections = [f"[Interface]\nPrivateKey = {self.key}\nListenPort = 51820\nAddress = 10.20.0.1/16"]
        for number in range(count):
            public = (
                wg("pubkey", text=self._private[number])
                if number < len(self._private)
                else wg("pubkey", text=wg("genkey"))
            )
            title = f"# friendly_name = {NAMES[number]}\n" if number < len(NAMES) else ""
            sections.append(f"[Peer]\n{title}PublicKey = {public}\nAllowedIPs = {self.address(number)}/32")
        self.file.write_text("\n".join(sections) + "\n")
        self.file.chmod(0o600)
        self._peers: subprocess.Popen[bytes] | None = None

    @staticmethod
    def address(number: int) -> str:
        """In the tunnel."""
        return str(ipaddress.IPv4Address("10.20.1.0") + number)

    def inside(self, space: str, *words: str) -> tuple[str, ...]:
        """The command in a namespace."""
        return ("ip", "netns", "exec", space, *words)

    def start(self) -> None:
        """Namespaces, the node, its peers."""
        for space in (self.here, self.there):
            run("ip", "netns", "add", space)
            run("ip", "-n", space, "link", "set", "lo", "up")
        run(
            "ip",
            "link",
            "add",
            "e0",
            "netns",
            self.here,
            "type",
            "veth",
            "peer",
            "name",
            "e0",
            "netns",
            self.there,
        )
        for space, address in ((self.here, "198.51.100.1/24"), (self.there, "198.51.100.2/24")):
            run("ip", "-n", space, "address", "add", address, "dev", "e0")
            run("ip", "-n", space, "link", "set", "e0", "up")
        run(*self.inside(self.here, UDPRING, "up", str(self.file)))
        words = (sys.executable, "-P", __file__, "--peers", wg("pubkey", text=self.key), *self._private)
        self._peers = subprocess.Popen(self.inside(self.there, *words))

    def stop(self) -> None:
        """Removes everything."""
        if self._peers is not None:
            self._peers.terminate()
            self._peers.wait(30)
        subprocess.run(self.inside(self.here, UDPRING, "down", str(self.file)), check=False, timeout=60)
        for space in (self.here, self.there):
            subprocess.run(("ip", "netns", "delete", space), check=False, timeout=60)


@contextmanager
def hub(count: int) -> Iterator[Hub]:
    """A running node with so many peers."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as last:
        made = Hub(Path(folder), count)
        last.callback(made.stop)
        made.start()
        yield made


def echo(source: str, size: int) -> bytes:
    """An ICMP echo of a peer to the node."""
    body = struct.pack("!BBHHH", 8, 0, 0, 1, 1) + bytes(size)
    total = sum(struct.unpack(f"!{len(body) // 2}H", body))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    body = body[:2] + struct.pack("!H", 0xFFFF - total) + body[4:]
    addresses = ipaddress.ip_address(source).packed + ipaddress.ip_address("10.20.0.1").packed
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, 1, 0) + addresses
    total = sum(struct.unpack("!10H", head))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + struct.pack("!H", 0xFFFF - total) + head[12:] + body


async def peers(public: str, private: list[str]) -> None:
    """Nodes without a device that exchange echoes with the hub, each at a rate of its own."""
    import udpring  # noqa: PLC0415 - not for the other process
    from udpring import keys  # noqa: PLC0415

    async def one(number: int, key: str) -> None:
        peer = udpring.PeerConfig(
            keys.from_base64(public),
            allowed_ips=(ipaddress.ip_network("10.20.0.0/16"),),
            endpoint=udpring.Endpoint("198.51.100.1", 51820),
        )
        config = udpring.Config(udpring.InterfaceConfig(private_key=keys.from_base64(key)), peers=(peer,))
        async with udpring.Node(config, attachment=udpring.Packets()) as node:
            packet = echo(Hub.address(number), 1200 - 90 * number)
            answers = asyncio.ensure_future(drain(node))
            while not answers.done():
                await node.packets.send([packet] * (LIVE - number))
                await asyncio.sleep(0.02 * (number + 1))

    async def drain(node: udpring.Node) -> None:
        while True:
            await node.packets.recv()

    await asyncio.gather(*(one(number, key) for number, key in enumerate(private)))


def main(folder: Path) -> None:
    """Writes all pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for count in PEERS:
        with hub(count) as made:
            command = " ".join(made.inside(made.here, UDPRING, "monitor", made.interface))
            live = min(count, LIVE)
            for columns, rows in SIZES:
                ready = rf"{live} of {count} peers.*, receives [1-9]"
                lines = captured(command, columns, rows, ready)
                assert len(lines) <= rows, lines
                title = f"udpring monitor, {count} peers, {columns}x{rows}"
                shown = [line.replace(made.interface, "wg0") for line in lines]
                (folder / f"monitor-{count}-{columns}x{rows}.svg").write_text(
                    svg(shown, columns, rows, title)
                )
                print(f"{title}: {len(lines)} lines", flush=True)
    for columns, rows in SIZES:
        lines = captured(f"{UDPRING} doctor", columns, rows, "a node can run here", history=True)
        title = f"udpring doctor, {columns} columns"
        (folder / f"doctor-{columns}x{rows}.svg").write_text(svg(lines, columns, len(lines), title))
        print(f"{title}: {len(lines)} lines", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peers"]:
        asyncio.run(peers(sys.argv[2], sys.argv[3:]))
    elif os.geteuid():
        sys.exit("pictures: run this as root: it makes network namespaces")
    elif shutil.which("tmux") is None:
        sys.exit("pictures: there is no tmux: install it")
    else:
        main(Path(sys.argv[1]) if sys.argv[1:] else TOP / "docs/pictures")
