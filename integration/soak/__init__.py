"""Real nodes under mixed traffic and chaos for a given time. scripts/soak runs it.

cage.py     new namespaces for processes, mounts and the network: everything in them ends with them
world.py    four nodes around a router, each with two links to it
flows.py    UDP with sequence numbers and TCP with known content, in all directions
heartbeat.py  how long the machine kept the soak itself from running
order.py    the allowed order of sequence numbers in a UDP flow
chaos.py    the kinds of disturbance
levels.py   memory, descriptors, threads and counters of a process, compared with their level after warm-up
watch.py    `wg show`, logs and sanitizer reports, checked continuously
verdict.py  events and violations, as a table and as JSON
run.py      the schedule, drawn from a seed
"""
