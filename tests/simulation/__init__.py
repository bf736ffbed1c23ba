"""Whole nodes in virtual time: real protocol and control loop, a model of the plane, a network by a seed.

world.py        virtual time, the network, event loops without an operating system
model_plane.py  what the C plane keeps and does (native/tunnel), said again in Python
model_link.py   whether an interface is up
fake_noise.py   a handshake without cryptography, for speed; who may read what is kept as it is
schedule.py     what is to happen, drawn from a seed
nodes.py        nodes in a world, and how each action is done
oracles.py      what must hold after each action, and at the end
shrink.py       the shortest schedule that still fails
endings.py      what is asked when the network is kind again
run.py          many schedules: scripts/simulate
"""
