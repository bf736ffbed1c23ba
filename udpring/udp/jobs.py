"""A batch to send as the core takes it (``struct udpring_send_job``), and its results.

A function that fills a part of a job returns the objects that must live until the job has ended.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from udpring._native import ffi, lib
from udpring.udp.address import LAYOUT, Address, AddressList, to_core
from udpring.udp.batch import Batch
from udpring.udp.uncopied import Uncopied

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Addresses", "Lengths", "Payloads", "SendReport", "Ticket"]

if TYPE_CHECKING:
    Payloads = Iterable[Buffer] | Buffer | Batch
    Lengths = int | Sequence[int] | Buffer
    Addresses = Address | Sequence[Address | None] | AddressList
else:  # for annotations evaluated at run time
    Payloads = Lengths = Addresses = object

_ORDERED = int(lib.UDPRING_SEND_ORDERED)
_TOS = int(lib.UDPRING_SEND_TOS)
_ADDRESS_BYTES = LAYOUT.size
_NO_ADDRESS = bytes(LAYOUT.size)
_REFUSED = LAYOUT.pack(0xFFFF, 0, 0, bytes(16))  # no such address family
_ALL_KNOWN: dict[int, OSError] = {}  # never written to


@dataclass(frozen=True, slots=True)
class SendReport:
    """The result of a batch: how many datagrams the kernel took, and index and error of each other one."""

    accepted: int
    errors: list[tuple[int, OSError]] = field(default_factory=list)


class Ticket(Uncopied):
    """Datagrams that were submitted and may not have been sent yet.

    It belongs to the ring's thread. Calls on the ring advance it: ``reap``, ``drain``, ``send_batch``.
    """

    __slots__ = ("_held", "_job", "_report", "_unknown", "count")

    _instead = "its report is plain data"

    def __init__(self, job: Any, held: tuple[Any, ...], unknown: dict[int, OSError]) -> None:
        """``unknown``: errors of wrong addresses, by the index of the datagram."""
        self._job = job
        self._held = held
        self._unknown = unknown
        self._report: SendReport | None = None
        #: Datagrams in it.
        self.count: int = job.count

    @property
    def done(self) -> bool:
        """Whether every datagram has its result. The payloads may be changed then."""
        return self._report is not None or self._job.ended == self._job.count

    @property
    def report(self) -> SendReport:
        """The results. Raises RuntimeError while some are missing."""
        if self._report is None:
            job = self._job
            if job.ended != job.count:
                raise RuntimeError(
                    f"{job.count - job.ended} of {job.count} datagrams have no result yet: reap() first"
                )
            self._report = make_report(job, self._unknown)
            self._job = None
            self._held = ()
        return self._report

    def __repr__(self) -> str:
        return f"<Ticket of {self.count} datagrams{'' if self.done else ', pending'}>"


def make_report(job: Any, unknown: dict[int, OSError]) -> SendReport:
    """The report of a finished job. ``unknown``: errors by index, which are more precise than the core's."""
    count: int = job.count
    if not job.failed:
        return SendReport(count)
    results = ffi.unpack(job.results, count)
    errors = [
        (i, unknown.get(i) or OSError(-code, os.strerror(-code))) for i, code in enumerate(results) if code
    ]
    return SendReport(count - len(errors), errors)


def fill_payloads(job: Any, payloads: Payloads, lengths: Lengths | None) -> tuple[Any, ...]:
    """Data, offsets, lengths, count of a job."""
    if lengths is not None:
        return _fill_contiguous(job, cast("Buffer", payloads), lengths)
    if isinstance(payloads, Batch):
        face = payloads._face
        if face is not None and face.whole_trains and any(payloads.segment_sizes):
            raise ValueError(
                "a batch with whole trains has no single datagrams to send: receive without whole_trains"
            )
        columns = payloads._columns()
        held = ffi.from_buffer("uint32_t[]", columns.lengths), ffi.from_buffer("uint8_t[]", columns.offsets)
        job.data = ffi.cast("uint8_t *", columns.base)
        job.bytes = columns.size if len(held[0]) else 0  # an empty buffer has no address
        job.lengths, job.offsets = held
        job.offset_bytes = columns.offsets.itemsize
        job.count = len(held[0])
        return columns.anchor, *held
    if isinstance(payloads, (bytes, bytearray, memoryview, str)):
        raise TypeError(
            f"payloads must be a sequence, not one {type(payloads).__name__}. Pass lengths= for one buffer"
        )
    if not isinstance(payloads, Iterable):
        raise TypeError(f"payloads is a sequence of buffers, not {payloads!r}")
    several = cast("Sequence[bytes]", payloads if isinstance(payloads, (list, tuple)) else list(payloads))
    try:
        data = b"".join(several)
    except TypeError:
        _refuse_payload(several)
        raise
    sizes = array("I", list(map(len, several)))
    if sum(sizes) != len(data):  # views of wider items count items, not bytes
        sizes = array("I", [memoryview(payload).nbytes for payload in several])
    whole = ffi.from_buffer("uint8_t[]", data)
    held = ffi.from_buffer("uint32_t[]", sizes)
    job.data = whole
    job.bytes = len(data)
    job.lengths = held
    job.offsets = ffi.NULL
    job.count = len(sizes)
    return whole, held


def _refuse_payload(several: Sequence[object]) -> None:
    """Raises a TypeError that names the first payload that cannot be sent."""
    for place, payload in enumerate(several):
        try:
            contiguous = memoryview(cast("Buffer", payload)).c_contiguous
        except TypeError:
            raise TypeError(
                f"payload {place} is not a buffer (bytes, memoryview, ...): {payload!r:.100}"
            ) from None
        if not contiguous:
            raise TypeError(f"payload {place} is a view with gaps or out of order: send bytes(view)")


def _fill_contiguous(job: Any, payload: Buffer, lengths: Lengths) -> tuple[Any, ...]:
    try:
        whole = ffi.from_buffer("uint8_t[]", payload)
    except (TypeError, BufferError, ValueError) as error:
        raise TypeError(f"with lengths= payloads is one contiguous buffer: {error}") from None
    size = len(whole)
    job.data = whole
    job.bytes = size
    job.offsets = ffi.NULL
    if isinstance(lengths, int):
        if lengths < 1:
            raise ValueError(f"lengths must be at least 1 byte: {lengths}")
        lengths = min(lengths, max(size, 1))
        job.length = lengths
        job.lengths = ffi.NULL
        job.count = -(-size // lengths)
        return (whole,)
    column = ffi.from_buffer("uint32_t[]", _column(lengths))
    job.lengths = column
    job.count = len(column)
    return whole, column


def _column(lengths: Sequence[int] | Buffer) -> Any:
    """Lengths as a buffer of uint32."""
    if not isinstance(lengths, (list, tuple, range)):
        try:
            view = memoryview(cast("Buffer", lengths))
        except TypeError:
            pass  # another sequence
        else:
            if view.format in ("I", "L") and view.itemsize == 4 and view.c_contiguous:
                return lengths
            lengths = view.tolist()
    try:
        return array("I", cast("Sequence[int]", lengths))
    except OverflowError:
        raise ValueError("lengths must be 0 to 4294967295 bytes each") from None


def fill_addresses(
    job: Any, address: Addresses | None, family: int, one: Any
) -> tuple[Any, dict[int, OSError]]:
    """Addresses of a job. ``one``: a ``struct udpring_address *`` to use when it is one for all.

    Returns the objects that must live as long as the job, and the errors of wrong addresses in a sequence, by
    index. The core refuses only those datagrams.
    """
    if address is None:
        job.address_count = 0
        return None, _ALL_KNOWN
    if type(address) is tuple and address and isinstance(address[0], str):
        ffi.memmove(one, to_core(cast(Address, address), family), _ADDRESS_BYTES)
        job.addresses = one
        job.address_count = 1
        return one, _ALL_KNOWN
    unknown = _ALL_KNOWN
    if not isinstance(address, AddressList):
        if isinstance(address, str) or not isinstance(address, Iterable):
            raise TypeError(
                f"address is (host, port), or a sequence with one for each payload, not {address!r}"
            )
        several = cast(
            "Sequence[Address | None]", address if isinstance(address, (list, tuple)) else list(address)
        )
        try:
            address = AddressList(several, family)
        except OSError:
            address, unknown = _one_by_one(several, family)
    count: int = job.count
    if len(address) != count:
        raise ValueError(f"{len(address)} addresses for {count} payloads: give one for all, or one each")
    held = ffi.from_buffer("struct udpring_address[]", address.packed)
    job.addresses = held
    job.address_count = count
    return held, unknown


def _one_by_one(several: Sequence[Address | None], family: int) -> tuple[AddressList, dict[int, OSError]]:
    """Packs addresses, some of them wrong (unknown name, IPv6 on an IPv4 socket). Errors are by index."""
    unknown: dict[int, OSError] = {}
    packed = []
    for place, address in enumerate(several):
        try:
            packed.append(_NO_ADDRESS if address is None else to_core(address, family))
        except OSError as error:
            unknown[place] = error
            packed.append(_REFUSED)
    return AddressList.of_packed(b"".join(packed), family), unknown


def fill_options(
    job: Any,
    family: int,
    source: str | None,
    interface_index: int,
    tos: int | None,
    ttl: int | None,
    ordered: bool,
) -> None:
    """Source, interface, TOS, TTL and order of a job."""
    raw = _NO_ADDRESS
    if source is not None:
        raw = to_core((source, 0), family)
        interface_index = interface_index or LAYOUT.unpack(raw)[2]  # a link-local source names its link
    if not 0 <= interface_index < 1 << 31:
        raise ValueError(f"interface_index must be that of an interface, or 0: {interface_index}")
    if tos is not None and not 0 <= tos <= 255:
        raise ValueError(f"tos is an octet, 0 to 255: {tos}")
    if ttl is not None and not 1 <= ttl <= 255:
        raise ValueError(f"ttl must be 1 to 255: {ttl}")
    ffi.memmove(ffi.addressof(job, "source"), raw, _ADDRESS_BYTES)
    job.interface_index = interface_index
    job.tos = tos or 0
    job.ttl = ttl or 0
    job.flags = (_ORDERED if ordered else 0) | (0 if tos is None else _TOS)
