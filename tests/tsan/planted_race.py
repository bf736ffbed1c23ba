"""Runs a race in two threads: ``planted_race.py LIBRARY FOLDER``; FOLDER holds the core in use."""

import ctypes
import sys
import threading

from udpring import _native

library, folder = sys.argv[1:]
if not str(_native._core.__file__).startswith(folder):
    sys.exit(f"the core is {_native._core.__file__}, not the one in {folder}")
race = ctypes.CDLL(library).race
threads = [threading.Thread(target=race, args=(1_000_000,)) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
