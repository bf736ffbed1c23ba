"""Real nodes under mixed traffic and chaos for as long as is asked for: what scripts/soak runs.

cage.py     namespaces of its own for processes, mounts and the network: when it ends, all in it ends
world.py    four nodes around a router, each with two links to it
flows.py    UDP with sequence numbers and TCP with known content, every way
heartbeat.py  how long the machine kept the soak itself from running
order.py    what the sequence numbers of a UDP flow may do
chaos.py    the kinds of disturbance
levels.py   memory, descriptors, threads and counters of a process against their level after warm-up
watch.py    `wg show`, logs and sanitizer reports, looked at all the time
verdict.py  events and violations, as a table and as JSON
run.py      the schedule, drawn from a seed
"""
