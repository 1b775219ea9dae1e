"""Ceph's S3 gateway on a cluster of one monitor and one disk in memory: Debian's `radosgw`.

`python -m tests.components.radosgw FOLDER PORT` runs the gateway in front of its cluster and ends
all three with itself. `PROGRAMS` must be there: apt-get install radosgw ceph-osd ceph-mon.
"""

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

from tests.ports import free_port

PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw")
SETTINGS = """
[global]
fsid = {cluster}
run dir = {root}
admin socket =
log file = {root}/$name.log
keyring = {root}/keyring
mon host = [v2:127.0.0.1:{port}/0]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
# A gateway asks for encryption by default, which needs keys.
ms mon client mode = crc
mon allow pool size one = true
mon data avail warn = 0
mon data avail crit = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 4294967296
[mon.a]
mon data = {root}/mon
[osd.0]
osd data = {root}/osd
[client.gateway]
rgw data = {root}/gateway
rgw frontends = beast endpoint=127.0.0.1:{gateway}
"""


def serve(root: Path, port: int) -> None:
    """Runs the gateway until it, or this process, ends."""
    cluster, monitor = str(uuid.uuid4()), free_port()
    for name in ("mon", "osd", "gateway"):
        (root / name).mkdir()
    (root / "keyring").touch()
    text = SETTINGS.format(cluster=cluster, root=root, port=monitor, gateway=port)
    (root / "ceph.conf").write_text(text)
    os.environ["CEPH_CONF"] = str(root / "ceph.conf")
    address, monmap = f"[v2:127.0.0.1:{monitor}/0]", str(root / "monmap")
    run("monmaptool", "--create", "--addv", "a", address, "--fsid", cluster, monmap)
    run("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap)
    with contextlib.ExitStack() as stack:
        begin(stack, "ceph-mon", "-i", "a", "--foreground")
        run("ceph", "osd", "create")
        run("ceph-osd", "-i", "0", "--mkfs")
        begin(stack, "ceph-osd", "-i", "0", "--foreground")
        keys = ("--access-key", os.environ["ACCESS"], "--secret", os.environ["SECRET"])
        user = ("user", "create", "--uid", "test", "--display-name", "test")
        run("radosgw-admin", "-n", "client.gateway", *user, *keys)
        begin(stack, "radosgw", "-n", "client.gateway", "--foreground").wait()


def run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=120, stdout=subprocess.DEVNULL)


def begin(stack: contextlib.ExitStack, *command: str) -> subprocess.Popen[bytes]:
    """Starts a server, which is killed at the end: nobody needs the data of its cluster."""
    process = stack.enter_context(subprocess.Popen(command))
    stack.callback(process.kill)
    return process


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    serve(Path(sys.argv[1]), int(sys.argv[2]))
