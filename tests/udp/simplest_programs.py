"""The simplest programs on batches and transports, which ``scripts/check types`` checks too."""

import asyncio
import socket

import udpring


def hosts_of_packets(inbox: socket.socket) -> list[str]:
    with udpring.RecvRing(inbox) as rx:
        return [packet.address[0] for packet in rx.recv_batch()]


def ports_of_column(inbox: socket.socket) -> list[int]:
    with udpring.RecvRing(inbox) as rx:
        batch = rx.recv_batch()
        return [batch.addresses[0][1], *(address[1] for address in batch.addresses[:1])]


def answer(inbox: socket.socket) -> str:
    with udpring.RecvRing(inbox) as rx, udpring.SendRing(inbox) as tx:
        batch = rx.recv_batch()
        tx.send_batch([b"answer"], batch.addresses[0])
        tx.send_batch(batch, batch.addresses)
        host, port = batch[0].address[:2]
        return f"{host} {port}"


class Echo(asyncio.DatagramProtocol):
    transport: udpring.RingTransport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(data, addr)
        self.transport.flush()


async def echo() -> tuple[str, int]:
    transport, protocol = await udpring.open_datagram_endpoint(Echo, ("127.0.0.1", 0))
    protocol.transport = transport
    transport.pause_reading()
    transport.resume_reading()
    transport.close()
    name: tuple[str, int] = transport.get_extra_info("sockname")
    return name


async def on_rings() -> bool:
    loop = asyncio.get_running_loop()
    udpring.use_in(loop, send_at_once=True)
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, ("127.0.0.1", 0))
    transport.close()
    return isinstance(transport, udpring.RingTransport)
