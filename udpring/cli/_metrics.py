"""Running interfaces as OpenMetrics families, read anew for each scrape.

``wireguard_*`` have the names and labels of prometheus_wireguard_exporter and come from any userspace
WireGuard. ``udpring_*`` come from the report of a udpring node (``tunnel_report``). Needs the extra
``metrics``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from udpring.cli._peer_names import PeerNames
from udpring.errors import UdpringError
from udpring.tunnel import keys, uapi
from udpring.tunnel.uapi_client import UapiClient, interfaces

__all__ = ["InterfaceMetrics"]

Table: TypeAlias = Mapping[str, object]

_PEER = ("interface", "public_key", "allowed_ips", "friendly_name")
_ONE_BY_ONE = {
    "receive": "Received by the UDP sockets",
    "send": "Sent by the UDP sockets",
    "work": "Work of the node",
}
"""Tables of counters whose rows have no common meaning: a metric each."""
_STATES = {
    "mailbox_events": ("queues", "Events that wait for the control loop"),
    "mailbox_capacity": ("queues", "Events that the mailbox holds"),
    "sends_pending": ("queues", "Datagrams and trains that the kernel has not taken"),
    "send_slots": ("queues", "Datagrams and trains that the send rings hold"),
    "staged_bytes": ("queues", "Bytes of packets that wait for a handshake"),
    "wanted_bytes": ("queues", "Bytes of packets that wait for a directory's answer"),
    "receive_queue_bytes": ("queues", "Memory of datagrams that wait in the UDP sockets"),
    "receive_queue_limit": ("queues", "Memory of datagrams that the UDP sockets take (SO_RCVBUF)"),
    "program_out_bytes": ("queues", "Bytes of packets that wait between the program and the workers"),
    "program_in_bytes": ("queues", "Bytes of packets that wait for the program"),
    "flow_packets": ("queues", "Packets of the interface that wait for a send"),
    "flow_bytes": ("queues", "Bytes of packets of the interface that wait for a send"),
    "peers": ("tables", "Peers"),
    "allowed_ips": ("tables", "Allowed IPs of all peers"),
    "keypairs": ("tables", "Keypairs of all peers"),
    "workers": ("node", "Worker threads"),
    "paused": ("node", "Whether the node takes no new sessions"),
}
_HISTOGRAMS = {
    "receive_batches": ("receive_batch_datagrams", "Datagrams received in one pass of a worker"),
    "send_batches": ("send_batch_datagrams", "Datagrams sent in one pass of a worker"),
    "receive_trains": ("receive_train_datagrams", "Datagrams of a train that was received (UDP_GRO)"),
    "send_trains": ("send_train_datagrams", "Datagrams of a train that was sent (UDP_SEGMENT)"),
}
_DIRECTIONS = {"in": "from the network", "out": "to the network"}


class InterfaceMetrics(Collector):
    """``names``: of the interfaces; none: all that run at the time of a scrape."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._names = tuple(names)
        self._peer_names = PeerNames()

    def collect(self) -> Iterator[Metric]:
        """All families. An interface that does not answer has only ``udpring_scrape_success`` 0."""
        names = self._names or interfaces(uapi.SOCKET_DIRECTORY)
        devices: dict[str, uapi.DeviceInfo] = {}
        reports: dict[str, Table] = {}
        success = GaugeMetricFamily(
            "udpring_scrape_success", "Whether the interface answered", labels=("interface",)
        )
        for name in names:
            try:
                devices[name] = UapiClient(name, uapi.SOCKET_DIRECTORY).get()
            except (UdpringError, OSError):
                success.add_metric((name,), 0)
                continue
            success.add_metric((name,), 1)
            with contextlib.suppress(UdpringError, OSError):  # another program's, or it has ended
                reports[name] = UapiClient(name, uapi.SOCKET_DIRECTORY).report("stats")
        self._peer_names.keep(set(names))
        yield success
        yield from self._peers(devices)
        yield from _node_families(reports)

    def _peers(self, devices: Mapping[str, uapi.DeviceInfo]) -> Iterator[Metric]:
        sent = CounterMetricFamily("wireguard_sent_bytes", "Bytes sent to the peer", labels=_PEER)
        received = CounterMetricFamily(
            "wireguard_received_bytes", "Bytes received from the peer", labels=_PEER
        )
        handshake = GaugeMetricFamily(
            "wireguard_latest_handshake_seconds",
            "UNIX time of the latest handshake with the peer, 0 for none",
            labels=_PEER,
        )
        for interface, device in devices.items():
            friendly = self._peer_names.of(interface)
            for peer in device.peers:
                allowed = ",".join(uapi.format_prefix(ip, cidr) for ip, cidr in peer.allowed_ips)
                key = keys.to_base64(peer.public_key)
                labels = (interface, key, allowed, friendly.get(peer.public_key, ""))
                sent.add_metric(labels, peer.tx_bytes)
                received.add_metric(labels, peer.rx_bytes)
                handshake.add_metric(labels, peer.last_handshake // 10**9)
        yield from (sent, received, handshake)


def _table(report: Table, name: str) -> Table:
    table = report.get(name)
    return table if isinstance(table, Mapping) else {}


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) else None


def _node_families(reports: Mapping[str, Table]) -> Iterator[Metric]:
    yield _info(reports)
    yield _by_row(reports, "drops", "udpring_packets_dropped", "Packets dropped, by reason", "reason")
    yield _by_row(
        reports,
        "handshake_drops",
        "udpring_handshake_messages_dropped",
        "Handshake messages dropped by the protocol, by reason",
        "reason",
    )
    yield _by_row(
        reports,
        "handshakes",
        "udpring_handshakes",
        "Handshakes, by result",
        "result",
        ("completed", "unanswered", "given_up"),
    )
    yield _counter(
        reports,
        ("handshakes", "completed_as_initiator"),
        "udpring_handshakes_initiated",
        "Completed handshakes that this node began",
    )
    yield _by_row(
        reports,
        "handshakes",
        "udpring_protocol_messages_sent",
        "Messages of the protocol that were sent, by kind",
        "kind",
        ("messages_sent", "keepalives_sent"),
    )
    for unit in ("packets", "bytes"):
        family = CounterMetricFamily(
            f"udpring_interface_{unit}",
            f"Inner {unit}, by direction",
            labels=("interface", "direction"),
        )
        for interface, report in reports.items():
            for direction in _DIRECTIONS:
                value = _number(_table(report, "interface").get(f"{unit}_{direction}"))
                if value is not None:
                    family.add_metric((interface, direction), value)
        yield family
    yield from _single_counters(reports)
    yield from _histograms(reports)
    for name, (table, words) in _STATES.items():
        gauge = GaugeMetricFamily(f"udpring_{name}", words, labels=("interface",))
        for interface, report in reports.items():
            value = _number(_table(report, table).get(name))
            if value is not None:
                gauge.add_metric((interface,), float(value))
        yield gauge


def _info(reports: Mapping[str, Table]) -> Metric:
    info = InfoMetricFamily("udpring_node", "Version, tier, AEAD and offloads in use", labels=("interface",))
    for interface, report in reports.items():
        node, offloads = _table(report, "node"), _table(report, "offloads")
        info.add_metric(
            (interface,),
            {
                "version": str(report.get("version", "")),
                "tier": str(node.get("tier", "")),
                "aead": str(node.get("aead", "")),
                "interface_offloads": str(offloads.get("interface", "")),
                "trains_sent": str(offloads.get("trains_sent", "")).lower(),
                "trains_received": str(offloads.get("trains_received", "")).lower(),
            },
        )
    return info


def _by_row(
    reports: Mapping[str, Table],
    table: str,
    name: str,
    words: str,
    label: str,
    rows: Sequence[str] | None = None,
) -> Metric:
    """One counter whose label is the row of the table."""
    family = CounterMetricFamily(name, words, labels=("interface", label))
    for interface, report in reports.items():
        for row, value in _table(report, table).items():
            number = _number(value)
            if number is not None and (rows is None or row in rows):
                family.add_metric((interface, row), number)
    return family


def _histograms(reports: Mapping[str, Table]) -> Iterator[Metric]:
    """A report counts each size in one bucket. OpenMetrics counts it in all larger ones too."""
    for row, (name, words) in _HISTOGRAMS.items():
        family = HistogramMetricFamily(f"udpring_{name}", words, labels=("interface",))
        for interface, report in reports.items():
            histogram = _table(_table(report, "histograms"), row)
            total, sum_of_sizes = 0.0, _number(histogram.get("sum"))
            buckets: list[tuple[str, float]] = []
            for bound, count in _table(histogram, "buckets").items():
                total += _number(count) or 0
                buckets.append((f"{bound}.0" if bound.isdecimal() else "+Inf", total))
            if buckets and sum_of_sizes is not None:
                family.add_metric((interface,), buckets, sum_of_sizes)
        yield family


def _single_counters(reports: Mapping[str, Table]) -> Iterator[Metric]:
    for table, words in _ONE_BY_ONE.items():
        rows = dict.fromkeys(row for report in reports.values() for row in _table(report, table))
        for row in rows:
            described = f"{words}: {row.replace('_', ' ')}"
            yield _counter(reports, (table, row), f"udpring_{table}_{row}", described)


def _counter(reports: Mapping[str, Table], place: tuple[str, str], name: str, words: str) -> Metric:
    """One counter: this row of this table."""
    family = CounterMetricFamily(name, words, labels=("interface",))
    table, row = place
    for interface, report in reports.items():
        value = _number(_table(report, table).get(row))
        if value is not None:
            family.add_metric((interface,), value)
    return family
