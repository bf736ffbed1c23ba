"""The harness of the integration tests: namespaces made by netns-scripts/, nodes in them, traffic.

space.py     a namespace: sockets and processes inside it
topology.py  one run of a script of netns-scripts/
node.py      a WireGuard interface: any wireguard-go compatible program, driven by `wg`
kernel.py    the kernel's own WireGuard as such a node
traffic.py   pings, TCP and UDP whose content is compared
wire.py      captures and what is read from them
reaper.py    takes down what a killed run left
initiator.py an honest peer in the test's own hands
rig.py       what a test holds: makes the above, and takes all of it down
"""

from lab.node import GO, SUBJECT, Node, Peer, Program
from lab.rig import Rig, Tunnel
from lab.space import Space, until
from lab.topology import Topology

__all__ = ["GO", "SUBJECT", "Node", "Peer", "Program", "Rig", "Space", "Topology", "Tunnel", "until"]
