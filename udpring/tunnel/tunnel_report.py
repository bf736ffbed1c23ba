"""The report of a tunnel for ``udpring stats`` and the exporter: everything that the node counts."""

from __future__ import annotations

from udpring.tunnel.plane_values import Histogram, PlaneStats
from udpring.tunnel.tunnel import Tunnel
from udpring.tunnel.uapi_report import Report
from udpring.wireguard.events import DropReason

__all__ = ["tunnel_report"]


def _histogram(histogram: Histogram) -> Report:
    """``buckets``: the largest size of each bucket -> how many sizes are in it alone."""
    last = len(histogram.buckets) - 1
    return {
        "count": histogram.count,
        "sum": histogram.sum,
        "buckets": {
            "more" if number == last else str(1 << number): count
            for number, count in enumerate(histogram.buckets)
        },
    }


def _queues(counted: PlaneStats) -> Report:
    return {
        "mailbox_events": counted.mailbox_depth,
        "mailbox_capacity": counted.mailbox_capacity,
        "sends_pending": counted.sends_pending,
        "send_slots": counted.send_slots,
        "staged_bytes": counted.staged_bytes,
        "wanted_bytes": counted.wanted_bytes,
        "receive_queue_bytes": counted.receive_queue_bytes,
        "receive_queue_limit": counted.receive_queue_limit,
        "program_out_bytes": counted.program_out_bytes,
        "program_in_bytes": counted.program_in_bytes,
        "flow_packets": counted.flow_packets,
        "flow_bytes": counted.flow_bytes,
    }


def _passes(counted: PlaneStats) -> Report:
    return {
        "passes": counted.passes,
        "pauses": counted.pauses,
        "yields": counted.yields,
        "congestion_marks": counted.congestion_marks,
        "trains_helped": counted.trains_helped,
        "help_trials": counted.help_trials,
    }


def tunnel_report(tunnel: Tunnel) -> Report:
    """Tables of names and values. It holds no key and no address."""
    from udpring import __version__  # noqa: PLC0415 - the package imports this room

    stats, plane = tunnel.stats(), tunnel.plane
    counted, control = stats.plane, stats.control
    return {
        "version": __version__,
        "node": {
            "tier": counted.tier,
            "tier_reason": plane.tier_reason,
            "aead": counted.aead,
            "workers": counted.workers,
            "workers_nice": counted.nice,
            "paused": tunnel.paused,
            "handshake_sockets": counted.handshake_sockets,
            "shared_sockets_reason": plane.sharing_reason,
            "routes_reason": plane.routes_reason,
        },
        "offloads": {
            "interface": " ".join(counted.tun_offloads),
            "trains_sent": plane.sends_trains if tunnel.offload is None else tunnel.offload,
            "trains_received": plane.receives_trains,
            "trains_reason": plane.trains_reason,
        },
        "queues": _queues(counted),
        "histograms": {name: _histogram(histogram) for name, histogram in counted.histograms.items()},
        "tables": {
            "peers": counted.peers,
            "allowed_ips": counted.prefixes,
            "keypairs": counted.keypairs,
        },
        "interface": {
            "packets_out": counted.tun_packets_in,
            "bytes_out": counted.tun_bytes_in,
            "packets_in": counted.tun_packets_out,
            "bytes_in": counted.tun_bytes_out,
        },
        "receive": counted.rx,
        "send": counted.tx,
        "handshakes": {
            "completed": control.handshakes_completed,
            "completed_as_initiator": control.handshakes_initiated,
            "unanswered": control.handshakes_unanswered,
            "given_up": control.handshakes_given_up,
            "messages_sent": control.messages_sent,
            "keepalives_sent": control.keepalives_sent,
        },
        "drops": counted.drops,
        "handshake_drops": {str(reason): control.dropped.get(reason, 0) for reason in DropReason},
        "work": {
            **_passes(counted),
            "shortages": counted.shortages,
            "commands": counted.commands,
            "command_errors": control.command_errors,
            "failures": control.failures,
            "events": counted.events,
            "events_lost": counted.events_lost,
            "program_events_lost": stats.events_lost,
            "trains_split": counted.trains_split,
            "super_packets_split": counted.super_packets_split,
            "route_notices": counted.route_notices,
            "route_sweeps": counted.route_sweeps,
            "route_lookups": counted.route_lookups,
            "route_failures": counted.route_failures,
        },
    }
