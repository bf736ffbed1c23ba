"""The harness of the integration tests: namespaces made by netns-scripts/, nodes in them, traffic.

space.py     a namespace: sockets and processes inside it
topology.py  one run of a script of netns-scripts/
node.py      a WireGuard interface: any program compatible with wireguard-go, driven by `wg`
kernel.py    the kernel's own WireGuard as such a node
traffic.py   pings, TCP and UDP with content checks
wire.py      captures and their messages
reaper.py    removes the leftovers of a killed run
initiator.py an honest peer that the test controls
isolated.py  programs in a network namespace of their own
processes.py processes as proc(5) shows them
weight.py    the nice values of sessions
rig.py       makes all of these for a test and removes them
"""

from lab.node import GO, SUBJECT, Node, Peer, Program
from lab.rig import Rig, Tunnel
from lab.space import Space, until
from lab.topology import Topology

__all__ = ["GO", "SUBJECT", "Node", "Peer", "Program", "Rig", "Space", "Topology", "Tunnel", "until"]
