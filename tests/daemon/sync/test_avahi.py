"""What Avahi, a second implementation of mDNS, sees of the service, in a network of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NEEDED = ("avahi-daemon", "avahi-browse", "avahi-resolve", "dbus-daemon", "unshare", "ip")
MISSING = [name for name in NEEDED if shutil.which(name) is None]

pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (Debian: avahi-utils)"),
    pytest.mark.slow,
]

NETWORK = """
set -e
mount -t tmpfs none /run
mkdir -p /run/avahi-daemon
for names in passwd group; do grep -v ^avahi: /etc/$names > $names; done  # a uid that is not there in the namespace
echo "avahi:x:0:0::/:/bin/false" >> passwd
echo "avahi:x:0:" >> group
mount --bind passwd /etc/passwd
mount --bind group /etc/group
ip link set lo up
ip link add home0 type veth peer name far0
ip link set far0 up
ip link set home0 up multicast on
ip address add 192.168.77.1/24 dev home0
ip route add 224.0.0.0/4 dev home0
dbus-daemon --config-file=bus.conf --fork --nosyslog
avahi-daemon -f avahi.conf --no-drop-root --no-chroot --no-rlimits --no-chroot 2> avahi.log &
exec "$@"
"""
BUS = """<busconfig><listen>unix:path={path}</listen><auth>EXTERNAL</auth><policy context="default">
<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>"""
AVAHI = "[server]\nhost-name=second\nuse-ipv6=no\nenable-dbus=yes\n[publish]\npublish-workstation=no\n"

LOOK = """
import asyncio, json, subprocess
from daemon.sync import discovery
discovery.POLL_S = 0.3

async def said(*command):
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return (await process.communicate())[0].decode()

async def until(text, *command):
    for _ in range(40):
        if text in (answer := await said(*command)):
            return answer
        await asyncio.sleep(0.5)
    raise AssertionError(f"{command} never says {text}: {answer}")

async def main():
    browse = ("avahi-browse", "-rpt", "_idiolect._tcp")
    resolve = ("avahi-resolve", "-4", "-n", "k7f3q2mzx5ab.local")
    advertisement = discovery.Advertisement("k7f3q2mzx5ab", "Ada's desk", "0.0.0.0", 8737, 42)
    assert await advertisement.start() is None
    found = [await until("8737", *browse), await until("192.168.77.1", *resolve)]
    await advertisement.update(43)
    found.append(await until('"mv=43"', *browse))
    await said("ip", "address", "delete", "192.168.77.1/24", "dev", "home0")
    await said("ip", "address", "add", "192.168.77.9/24", "dev", "home0")
    await said("ip", "route", "replace", "224.0.0.0/4", "dev", "home0")
    found.append(await until("192.168.77.9", *resolve))
    await advertisement.stop()
    for _ in range(20):  # a goodbye counts after a second
        if "=" not in (left := await said(*browse)):
            break
        await asyncio.sleep(0.5)
    print(json.dumps([*found, left]))

asyncio.run(main())
"""


def test_avahi_browses_and_resolves_it_and_follows_its_changes(tmp_path: Path) -> None:
    (tmp_path / "bus.conf").write_text(BUS.format(path=tmp_path / "bus"))
    (tmp_path / "avahi.conf").write_text(AVAHI)
    namespaces = ["unshare", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*namespaces, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine gives tests no network of their own (unshare --net)")
    environment = os.environ | {
        "DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={tmp_path / 'bus'}",
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }
    command = [*namespaces, "sh", "-c", NETWORK, "sh", sys.executable, "-c", LOOK]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    browsed, resolved, updated, moved, left = json.loads(done.stdout)
    (line,) = [line for line in browsed.splitlines() if line.startswith("=")]
    _, interface, protocol, label, kind, domain, host, address, port, texts = line.split(";")
    assert (interface, protocol, kind, domain) == ("home0", "IPv4", "_idiolect._tcp", "local")
    assert label == "Ada\\039s\\032desk"
    assert (host, address, port) == ("k7f3q2mzx5ab.local", "192.168.77.1", "8737")
    assert set(texts.split()) == {'"txtvers=1"', '"id=k7f3q2mzx5ab"', '"api=1"', '"mv=42"', '"tls=1"'}
    assert resolved.split() == ["k7f3q2mzx5ab.local", "192.168.77.1"]
    assert '"mv=43"' in updated
    assert moved.split()[1] == "192.168.77.9"
    assert "=" not in left
