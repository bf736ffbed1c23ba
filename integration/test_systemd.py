"""The systemd unit: its sandbox, and a node under a real systemd."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from lab import until

from udpring.tunnel import keys

TOP = Path(__file__).parent.parent
UNIT = TOP / "docs" / "udpring@.service"
SYSTEMD = Path("/lib/systemd/systemd")
PRIVATE = keys.to_base64(keys.generate_private_key())
PEER = keys.to_base64(keys.public_key(keys.generate_private_key()))
pytestmark = pytest.mark.skipif(
    not SYSTEMD.exists(),
    reason="no systemd (scripts/bootstrap installs it)",
)

FILE = f"""
cat >/etc/wireguard/probe0.conf <<CONFIG
[Interface]
PrivateKey = {PRIVATE}
Address = 10.77.0.1/24
SaveConfig = true
PostUp = echo "PostUp of %i"
PostUp = bash -c 'trap "echo a signal for all" TERM; sleep 1000 & wait' &
[Peer]
PublicKey = {PEER}
AllowedIPs = 0.0.0.0/0
Endpoint = 127.0.0.1:9
CONFIG
chmod 600 /etc/wireguard/probe0.conf
ip link set lo up
"""
PROBE = f"""{FILE}
systemctl start udpring@probe0; echo "start $?"
pid=$(systemctl show -p MainPID --value udpring@probe0)
until grep -q 'Seccomp:.*2' /proc/$pid/status; do sleep 0.05; done
cat /proc/$pid/task/*/status | grep -E '^(CapEff|Uid)' | sort -u
wg show probe0 allowed-ips
ip -4 rule show lookup main | grep suppress
nft list tables
sysctl net.ipv4.conf.all.src_valid_mark
sed -i 's/^Address.*/&\\nListenPort = 40777/' /etc/wireguard/probe0.conf
systemctl reload udpring@probe0; echo "reload $?"
wg show probe0 listen-port
wg set probe0 listen-port 40888; echo "set $?"
systemctl stop udpring@probe0; echo "stop $?"
systemctl show -p Result udpring@probe0
ip link show probe0 2>&1
grep ListenPort /etc/wireguard/probe0.conf
echo END
"""
LIFE = (
    "start 0", f"{PEER}\t0.0.0.0/0", "table ip udpring-probe0", "net.ipv4.conf.all.src_valid_mark = 1",
    "reload 0", "40777", "set 0", "stop 0", "Result=success", 'Device "probe0" does not exist.',
    "ListenPort = 40888",
)  # fmt: skip
INTRUDED = f"""{FILE}
mkdir -p /etc/systemd/system/udpring@.service.d
tries() {{
cat >/etc/systemd/system/udpring@.service.d/intruder.conf <<UNIT
[Service]
Environment=UDPRING_INTRUDER=/run/wireguard/intruder UDPRING_CONFINEMENT=$1
ExecStart=
ExecStart={sys.executable} -P {TOP}/integration/lab/intruder.py up --foreground %i
UNIT
systemctl daemon-reload
systemctl start udpring@probe0; echo "start $?"
{sys.executable} -P - <<'CODE'
import socket
with socket.socket(socket.AF_UNIX) as there, there.makefile("rw") as lines:
    there.connect("/run/wireguard/intruder")
    for path in ("/tmp/made", "/run/wireguard/made"):
        lines.write("socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).bind(%r)\\n" % path)
        lines.flush()
        print(path, lines.readline().strip())
CODE
systemctl stop udpring@probe0
rm -f /run/wireguard/intruder /run/wireguard/made
}}
tries off
tries on
echo END
"""
SCHEDULED = f"""{FILE}
looks() {{
systemctl start udpring@probe0; echo "start $?"
pid=$(systemctl show -p MainPID --value udpring@probe0)
until grep -q 'Seccomp:.*2' /proc/$pid/status; do sleep 0.05; done
for thread in /proc/$pid/task/*; do
    grep -q udpring-worker $thread/comm && sed -n 's/ //g; s/se.slice://p' $thread/sched
done
systemctl stop udpring@probe0
}}
looks
mkdir -p /etc/systemd/system/udpring@.service.d
printf '[Service]\n%s\n' '{{drop_in}}' >/etc/systemd/system/udpring@.service.d/scheduling.conf
systemctl daemon-reload
looks
echo END
"""
AS_USER = f"""
echo 'udpring:x:900:900::/nonexistent:/usr/sbin/nologin' >>/etc/passwd
echo 'udpring:x:900:' >>/etc/group
program={Path(sys.executable).with_name("udpring")}
setpriv --reuid=900 --regid=900 --clear-groups $program --version || echo unreadable
mkdir -p /etc/systemd/system/udpring@.service.d
cat >/etc/systemd/system/udpring@.service.d/user.conf <<'UNIT'
{{drop_in}}UNIT
systemctl daemon-reload
touch /etc/wireguard/probe0.conf
chown -R udpring /etc/wireguard
"""


def _installed(folder: Path) -> Path:
    """The unit with the program of this environment."""
    unit = folder / UNIT.name
    program = Path(sys.executable).with_name("udpring")
    unit.write_text(UNIT.read_text().replace("/usr/local/bin/udpring", str(program)))
    return unit


def test_exposure_is_below_two(tmp_path: Path) -> None:
    unit = _installed(tmp_path)
    words = ("systemd-analyze", "security", "--offline=true", "--threshold=19", "--no-pager", str(unit))
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_unit_is_valid(tmp_path: Path) -> None:
    unit = _installed(tmp_path)
    words = ("systemd-analyze", "verify", "--man=no", str(unit))
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "udpring" not in done.stderr


def _said(folder: Path, probe: str) -> tuple[str, str]:
    """What a probe and the nodes say under a systemd that is started for it."""
    (folder / "probe").write_text(probe)
    (folder / "unit").mkdir()
    enter = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc", "--net")
    script = TOP / "integration" / "lab" / "systemd_root.sh"
    words = (*enter, "bash", str(script), str(TOP), str(_installed(folder / "unit")), str(folder))
    log = folder / "probe.log"
    with (folder / "console").open("w") as console:
        root = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=console, stderr=console)

    def said() -> str:
        text = log.read_text() if log.exists() else ""
        return text if text.endswith("END\n") else ""

    try:
        until(lambda: said() or root.poll() is not None, "the probe ends", timeout=100)
    finally:
        root.send_signal(signal.SIGKILL)
        root.wait(30)
        clean = ("unshare", "--mount", "bash", str(script), "--clean", str(folder))
        until(lambda: subprocess.run(clean, check=False).returncode == 0, "its cgroups are gone")
    text = said()
    console_text = (folder / "console").read_text()
    if not text and "mount" in console_text:
        pytest.skip(f"this host mounts no root for systemd: {console_text.splitlines()[0]}")
    node = folder / "node.log"
    return text, node.read_text() if node.exists() else ""


def test_node_runs_under_systemd(tmp_path: Path) -> None:
    """It starts with routes, rules and firewall, is confined, reloads, changes its port, stops and saves."""
    text, node = _said(tmp_path, PROBE)
    for line in (*LIFE, f"CapEff:\t{1 << 12:016x}", "Uid:\t0\t0\t0\t0"):
        assert line in text.splitlines(), f"{line!r} is not in\n{text}\n{node}"
    assert "PostUp of probe0" in node
    assert "not confined" not in node
    assert "a signal for all" not in node.splitlines(), "it also ends what the node starts on its way down"
    assert not os.path.lexists("/etc/wireguard/probe0.conf"), "the host's files are untouched"


def test_node_runs_as_a_user_of_its_own(tmp_path: Path) -> None:
    """The same life, by the drop-in of docs/least-privilege.md. A wg of root configures the node."""
    page = (TOP / "docs/least-privilege.md").read_text()
    drop_in = re.search(r"^    \[Service\]\n    User=.*\n(    .*\n)*", page, re.MULTILINE)
    assert drop_in
    text, node = _said(tmp_path, AS_USER.format(drop_in=textwrap.dedent(drop_in[0])) + PROBE)
    if "unreadable" in text:
        pytest.skip("other users may not read this checkout")
    for line in (*LIFE, f"CapEff:\t{1 << 12:016x}", "Uid:\t900\t900\t900\t900"):
        assert line in text.splitlines(), f"{line!r} is not in\n{text}\n{node}"
    assert "PostUp of probe0" in node
    assert "not confined" not in node


def test_drop_in_gives_workers_their_time_slice(tmp_path: Path) -> None:
    slice_now = re.search(r"^se\.slice *: *(\d+)$", _text("/proc/self/sched"), re.MULTILINE)
    major, minor = (int(number) for number in re.findall(r"\d+", os.uname().release)[:2])
    if not slice_now or (major, minor) < (6, 12):
        pytest.skip("this kernel has no time slices of threads (6.12), or does not show them")
    drop_in = re.search(r"`(SystemCallFilter=.*)`", (TOP / "docs/least-privilege.md").read_text())
    assert drop_in
    text, node = _said(tmp_path, SCHEDULED.replace("{drop_in}", drop_in[1]))
    assert text.splitlines() == ["start 0", slice_now[1], "start 0", "500000", "END"], node


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def test_landlock_holds_under_the_unit(tmp_path: Path) -> None:
    """Code in the node makes no socket file in the unit's own /tmp, which an unconfined node may do."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(444, None, 0, 1) < 2:
        pytest.skip("this kernel has no Landlock with links between folders (5.19)")
    text, node = _said(tmp_path, INTRUDED)
    unconfined = ["start 0", "/tmp/made null", "/run/wireguard/made null"]
    confined = ["start 0", f"/tmp/made -{errno.EACCES}", "/run/wireguard/made null"]
    assert text.splitlines() == [*unconfined, *confined, "END"], node
