"""Parts of the protocol that the product has in C alone, written a second time in Python.

Clarity comes first here, speed does not matter. Tests compare the C core with these modules, and the tests of
handshakes and timers use them in place of the data plane.

session.py    transport messages, the replay window and the keypairs of a peer (native/tunnel)
cookies.py    the cookies that a node under load asks for (native/tunnel/worker/cookies.c)
"""
