"""What ``udpring bench`` measures, and how: whole nodes in network namespaces of their own.

space.py       a network namespace that ends with us
program.py     a wireguard-go compatible program: what is started, its process, what that used
pair.py        two namespaces, a node in each, ready to carry traffic
traffic.py     iperf3 and ping, and what they say as numbers
measures.py    what is measured between two nodes, and the figures it gives
comparison.py  several programs, interleaved runs, medians and ratios
table.py       the same as text
plot.py        the same as a picture
"""
