"""Ports of this machine for the servers that tests start."""

import random
import socket
from pathlib import Path

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port():
    """A port that nothing listens on and that no outgoing connection can take before its server.

    The kernel gives outgoing connections the ports of RANGE: one of those may be gone by the time
    that a server asks for it. The global random state is a test's own, so the draw is the system's.
    """
    lowest = int(RANGE.read_text().split()[0])
    for port in random.SystemRandom().sample(range(10_000, lowest), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("100 ports in a row are taken")
