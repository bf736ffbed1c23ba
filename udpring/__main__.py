"""``python -P -m udpring``: the command ``udpring``."""

import sys

from udpring.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
