"""A plane changes its port, or closes, while messages that it has received wait to be handled."""

from __future__ import annotations

import textwrap

from seccomp import run_python

# Genuine keepalives between long forgeries, which take long to refuse. Three keepalives are a probe, which
# is answered at once (native/tunnel/worker/train_probe.c).
PROGRAM = textwrap.dedent("""
    import socket, struct, threading, time
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
    from udpring.tunnel.plane import Plane

    ROUNDS, PROBES, FORGERIES = 20, 16, 4
    KEY = bytes(range(32))
    seal = ChaCha20Poly1305(KEY).encrypt

    plane = Plane("backlog", queues=(1 << 20, 1 << 22), workers=WORKERS)
    peer = plane.peer_add()
    index = plane.index_new(peer)
    born = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    batch = plane.batch()
    batch.keypair(peer, KEY, KEY, local_index=index, remote_index=7, initiator=True, birth=born)
    assert batch.run() == [0]
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))

    def keepalive(counter):
        return struct.pack("<IIQ", 4, index, counter) + seal(struct.pack("<IQ", 0, counter), b"", b"")

    forged = struct.pack("<IIQ", 4, index, 1 << 20) + bytes(60000)
    counter = 0

    def backlog():
        global counter
        to = ("127.0.0.1", plane.port)
        burst = []
        for _ in range(PROBES):
            burst += [forged] * FORGERIES + [keepalive(counter + place) for place in range(3)]
            counter += 4
        def send():
            for message in burst:
                sock.sendto(message, to)
        thread = threading.Thread(target=send)
        thread.start()
        return thread

    for _ in range(ROUNDS):
        thread = backlog()
        plane.bind(0)
        thread.join()
    assert plane.stats().drops["unauthenticated"]
    thread = backlog()
    plane.close()
    thread.join()
    print("closed")
""")


def test_backlog_is_handled_before_the_send_ring_goes() -> None:
    for workers in (1, 2):
        done = run_python(PROGRAM.replace("WORKERS", str(workers)))
        assert (done.returncode, done.stdout) == (0, "closed\n"), done.stderr
