"""The measurements of ``udpring bench``: whole nodes in network namespaces, and the batch API.

space.py       a network namespace that ends with this process
program.py     a program compatible with wireguard-go: its command, process and resource usage
pair.py        two namespaces with a node in each, ready to carry traffic
traffic.py     iperf3 and ping, with results as numbers
spray.py       a process that sends datagrams at a rate: data, or bogus initiations
host.py        facts about the machine
samples.py     medians and ratios of the samples of several runs

measures.py    bench tunnel: measurements between two nodes, and their figures
comparison.py  bench tunnel: several programs in turn, medians and ratios
table.py       results as text
plot.py        bench tunnel as a picture
peers.py       bench peers: full tables
handshakes.py  bench handshakes: handshakes per second, and forwarding under a flood

packets.py     bench packets: a program's packets through two nodes without a device

udp.py         bench udp: rounds of every contender in turn, medians and ratios
udp_work.py    the patterns of destinations, sockets, and the length of a burst
udp_contenders.py  loops over socket, asyncio and uvloop, sendmmsg from C, and udpring's rings
udp_table.py   the result as text, with the intended ratios
udp_plot.py    the result as a picture

uring.py       bench uring: rows of contenders, runs in turn, medians and ratios
uring_row.py   what a row is
uring_nops.py, uring_files.py, uring_streams.py  the rows
uring_server.py, uring_protocols.py  the servers, each in a process of its own
uring_table.py, uring_plot.py  the result as text and as a picture

docs/performance.md explains each figure.
"""
