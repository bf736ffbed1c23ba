"""Tools around udpring: measurements and the demo. The product never imports this package.

bench/      what ``udpring bench`` measures
demo/       two nodes in two network namespaces, and what goes through the tunnel between them
commands/   ``udpring bench`` and ``udpring demo``

The commands ``udpring bench`` and ``udpring demo`` look for this package when they run. An installation that
leaves it out keeps all other commands.
"""
