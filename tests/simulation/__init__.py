"""Whole nodes in virtual time: the real protocol and control loop, a model of the plane, a network by a seed.

world.py        virtual time, the network, event loops without an operating system
model_plane.py  the C plane (native/tunnel) again in Python
model_link.py   whether an interface is up
fake_noise.py   a handshake without cryptography, for speed. It keeps the rules of who can read what
schedule.py     actions drawn from a seed
nodes.py        nodes in a world, and how they perform each action
oracles.py      invariants after each action and at the end
shrink.py       the shortest schedule that still fails
endings.py      checks at the end, when the network works again
run.py          many schedules: scripts/simulate
"""
