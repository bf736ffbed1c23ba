"""What only the start ran is no memory of the process any more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from udpring.tunnel.start_code import code_of_process

GIVEN_BACK = """
import hashlib, re
from pathlib import Path
from udpring.tunnel.start_code import code_of_process, give_back

def resident():
    maps = re.findall(r"^[0-9a-f-]+ r-xp .*/libcrypto(?s:.*?)^Rss: +([0-9]+)", smaps(), re.M)
    return sum(map(int, maps))

def smaps():
    return Path("/proc/self/smaps").read_text()

digest = hashlib.sha512(b"x").hexdigest()
before = resident()
give_back(code_of_process())
after = resident()
print(before > 0, after, hashlib.sha512(b"x").hexdigest() == digest, resident() > 0)
"""


def test_code_that_was_given_back_still_runs() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", GIVEN_BACK], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("True 0 True True\n", "")


def test_only_code_of_files_is_found() -> None:
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    places = {line[0]: line for line in lines}
    found = [places[f"{begin:08x}-{begin + size:08x}"] for begin, size in code_of_process()]
    assert any("libc" in line[-1] for line in found)
    assert all(line[1] == "r-xp" and line[-1].startswith("/") for line in found)
