"""The demo: its network namespaces and measurements (lab.py), and the process of one node (node.py)."""
