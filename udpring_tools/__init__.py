"""Tools around udpring: measurements and the demo. The product never imports this package.

bench/      the measurements of ``udpring bench``
demo/       two nodes in two network namespaces, with traffic between them
commands/   ``udpring bench`` and ``udpring demo``

The commands ``udpring bench`` and ``udpring demo`` look for this package when they run. An installation that
leaves it out keeps all other commands.
"""
