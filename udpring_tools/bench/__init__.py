"""What ``udpring bench`` measures, and how: whole nodes in network namespaces of their own, and the batch
API.

space.py       a network namespace that ends with us
program.py     a wireguard-go compatible program: what is started, its process, what that used
pair.py        two namespaces, a node in each, ready to carry traffic
traffic.py     iperf3 and ping, and what they say as numbers
spray.py       a process that sends datagrams at a rate: data, or bogus initiations
host.py        the machine that was measured on
samples.py     from the samples of several runs to a median and a ratio

measures.py    bench tunnel: what is measured between two nodes, and the figures it gives
comparison.py  bench tunnel: several programs in turn, medians and ratios
table.py       results as text
plot.py        bench tunnel as a picture
peers.py       bench peers: full tables
handshakes.py  bench handshakes: how many a second, and forwarding under a flood

udp.py         bench udp: rounds of every contender in turn, medians and ratios
udp_work.py    the patterns of destinations, sockets, and how long a burst may be
udp_contenders.py  loops over socket, asyncio and uvloop, sendmmsg from C, and our rings
udp_table.py   the result as text, beside the ratios that are meant to be reached
udp_plot.py    the result as a picture

docs/performance.md tells what each figure means.
"""
