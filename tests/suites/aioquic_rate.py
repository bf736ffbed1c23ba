"""How fast aioquic moves a stream from a client to a server, on the loop's transports and on the rings.

After ``scripts/suites aioquic``: PYTHONPATH=. build/suites/venv/bin/python -P tests/suites/aioquic_rate.py

Client and server share an event loop. The two ways take turns, each in a process of its own. A ratio is the
CPU time of the loop's transports by that of the rings in the same run. asyncio's transport allocates 256 KiB
for each datagram. That is much dearer until the program has freed a large block (mallopt(3),
M_MMAP_THRESHOLD), so each loop is measured before and after that.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import importlib
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import udpring

WAYS = ("own", "rings")
BLOCK = bytes(65536)


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of localhost and its key, as files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


async def transfer(size: int) -> tuple[float, float]:
    """Sends ``size`` bytes. Returns seconds and seconds of CPU."""
    quic: Any = importlib.import_module("aioquic.asyncio")
    configuration: Any = importlib.import_module("aioquic.quic.configuration").QuicConfiguration
    of_server = configuration(is_client=False)
    with tempfile.TemporaryDirectory() as folder:
        of_server.load_cert_chain(*certificate(Path(folder)))
    counting: set[asyncio.Task[None]] = set()

    def opened(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def count() -> None:
            received = 0
            while data := await reader.read(65536):
                received += len(data)
            writer.write(b"%d" % received)
            writer.write_eof()

        counting.add(asyncio.ensure_future(count()))

    server = await quic.serve("127.0.0.1", 0, configuration=of_server, stream_handler=opened)
    port = server._transport.get_extra_info("sockname")[1]
    of_client = configuration(is_client=True, verify_mode=ssl.CERT_NONE)
    async with quic.connect("127.0.0.1", port, configuration=of_client) as client:
        reader, writer = await client.create_stream()
        began, used = time.perf_counter(), time.process_time()
        for at in range(0, size, len(BLOCK)):
            writer.write(BLOCK[: size - at])
            await writer.drain()
        writer.write_eof()
        if int(await reader.read()) != size:
            raise RuntimeError("not all bytes have arrived")
        took = time.perf_counter() - began, time.process_time() - used
    server.close()
    return took


def child(loop: str, way: str, size: int, settled: bool) -> None:
    if settled:
        bytearray(16 << 20)
    if way == "rings":
        udpring.install()
    if loop == "uvloop":
        print(*uvloop.run(transfer(size)))
    else:
        print(*asyncio.run(transfer(size)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=50)
    parser.add_argument("--settled", action="store_true", help="free a large block first")
    parser.add_argument("--way", choices=WAYS, help="of one process, as the program starts it")
    given = parser.parse_args()
    if given.way:
        child(given.loop, given.way, given.megabytes * 1000000, given.settled)
        return
    cpu: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(given.runs):
        for way in WAYS[:: 1 if number % 2 else -1]:
            command = [sys.executable, "-P", __file__, *sys.argv[1:], "--way", way]
            said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
            seconds, used = map(float, said.split())
            cpu[way].append(used)
            print(f"{given.loop} {way}: {seconds:.2f} s, CPU {used:.2f} s", flush=True)
    ratio = statistics.median(own / rings for own, rings in zip(cpu["own"], cpu["rings"], strict=True))
    print(f"{given.loop}: {ratio:.2f} times as much by CPU time on the rings, median of {given.runs}")


if __name__ == "__main__":
    main()
