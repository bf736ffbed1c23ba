"""Parts of the protocol that the product has only in C, implemented again in Python.

Clarity matters here, speed does not. Tests compare the C core with these modules. The tests of handshakes and
timers use them in place of the data plane.

session.py    transport messages, the replay window and the keypairs of a peer (native/tunnel)
cookies.py    the cookies of a node under load (native/tunnel/worker/cookies.c)
"""
