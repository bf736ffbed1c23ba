#!/usr/bin/env python3
"""Answers DNS queries for A records from a table: dns_responder.py [--port N] NAME=ADDRESS... Ctrl-C ends it.

It receives many queries per call and sends many answers per call. The wire format is RFC 1035, section 4. It
is an example of a responder, not a name server: it does not know zones or delegations."""

import argparse
import contextlib
import ipaddress
import socket
import struct
import sys
from collections.abc import Mapping

import udpring

Zone = Mapping[bytes, list[bytes]]
"""The four bytes of each address by name, in lower case and wire format."""

HEADER = struct.Struct("!HHHHHH")  # id, flags, questions, answers, authorities, additionals
QUESTION_END = struct.Struct("!HH")  # type, class
ANSWER = struct.Struct("!HHHIH")  # pointer to the name, type, class, time to live, length
QUERY_OR_RESPONSE, AUTHORITATIVE, TRUNCATED, RECURSION_DESIRED = 0x8000, 0x0400, 0x0200, 0x0100
OPCODE = 0x7800
NOERROR, FORMERR, NXDOMAIN, NOTIMP, REFUSED = 0, 1, 3, 4, 5
TYPE_A, CLASS_IN = 1, 1
NAME_IN_QUESTION = 0xC000 | HEADER.size
"""A pointer (section 4.1.4): the answer has the name of the question, which follows the header."""
NAME_MAX, MESSAGE_MAX = 255, 512
SECONDS_TO_LIVE = 60


class MalformedQueryError(ValueError):
    """A query with a malformed question."""


def wire_name(text: str) -> bytes:
    """``www.example`` as labels, each with its length in front, in lower case."""
    labels = [label.encode("idna") for label in text.rstrip(".").lower().split(".")]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def end_of_name(query: bytes | memoryview, at: int) -> int:
    """The offset after the name at ``at``. Raises MalformedQueryError if the name exceeds the message or 255
    bytes, or contains a pointer, which cannot point to an earlier name here."""
    begin = at
    while at < len(query):
        length = query[at]
        if length > 63:
            raise MalformedQueryError("no label is longer than 63 bytes")
        at += 1 + length
        if at - begin > NAME_MAX:
            raise MalformedQueryError("no name is longer than 255 bytes")
        if length == 0:
            return at
    raise MalformedQueryError("the name does not end")


def respond(query: bytes | memoryview, zone: Zone) -> bytes | None:
    """The answer. None if there must be none: the datagram is too short for a header, or is itself an answer.
    Two responders could otherwise answer each other for ever."""
    if len(query) < HEADER.size:
        return None
    number, flags, questions, *_ = HEADER.unpack_from(query)
    if flags & QUERY_OR_RESPONSE:
        return None
    flags = QUERY_OR_RESPONSE | (flags & (OPCODE | RECURSION_DESIRED))
    if flags & OPCODE:
        return HEADER.pack(number, flags | NOTIMP, 0, 0, 0, 0)
    try:
        if questions != 1:
            raise MalformedQueryError("a query has one question")
        name_end = end_of_name(query, HEADER.size)
        if len(query) < name_end + QUESTION_END.size:
            raise MalformedQueryError("the question does not end")
    except MalformedQueryError:
        return HEADER.pack(number, flags | FORMERR, 0, 0, 0, 0)
    kind, family = QUESTION_END.unpack_from(query, name_end)
    question = bytes(query[HEADER.size : name_end + QUESTION_END.size])
    if family != CLASS_IN:
        return HEADER.pack(number, flags | REFUSED, 1, 0, 0, 0) + question
    known = zone.get(bytes(query[HEADER.size : name_end]).lower())
    addresses = known if known is not None and kind == TYPE_A else []
    flags |= AUTHORITATIVE | (NXDOMAIN if known is None else NOERROR)
    room = (MESSAGE_MAX - HEADER.size - len(question)) // (ANSWER.size + 4)
    if len(addresses) > room:
        addresses, flags = addresses[:room], flags | TRUNCATED
    answers = [ANSWER.pack(NAME_IN_QUESTION, TYPE_A, CLASS_IN, SECONDS_TO_LIVE, 4) + ip for ip in addresses]
    return b"".join([HEADER.pack(number, flags, 1, len(answers), 0, 0), question, *answers])


def serve(sock: socket.socket, zone: Zone) -> None:
    """Answers until Ctrl-C: all queries of a batch, then all answers in one call."""
    dropped = failed = 0
    with udpring.RecvRing(sock) as rx, udpring.SendRing(sock) as tx:
        print(f"answering on port {sock.getsockname()[1]}, tier {rx.tier}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                with rx.recv_batch() as batch:
                    answers = [(respond(packet.data, zone), packet.address) for packet in batch]
                ready = [(answer, to) for answer, to in answers if answer is not None and to is not None]
                dropped += len(answers) - len(ready)
                report = tx.send_batch([answer for answer, _ in ready], [to for _, to in ready])
                failed += len(report.errors)
        answered = tx.stats["packets"]
    print(f"{answered} answered, {dropped} dropped, {failed} not sent")


def main() -> None:
    """Reads the table from the command line."""
    parser = argparse.ArgumentParser(description="Answers DNS queries for A records out of a table.")
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1 (default: any that is free)")
    parser.add_argument("record", nargs="*", help="NAME=ADDRESS, IPv4; a name may come again")
    args = parser.parse_args()
    zone: dict[bytes, list[bytes]] = {}
    for record in args.record:
        name, _, address = record.partition("=")
        try:
            zone.setdefault(wire_name(name), []).append(ipaddress.IPv4Address(address).packed)
        except ValueError as wrong:
            parser.error(f"{record!r} is not NAME=ADDRESS: {wrong}")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", args.port))
        serve(sock, zone)


if __name__ == "__main__":
    try:
        main()
    except udpring.UdpringError as error:
        sys.exit(str(error))
