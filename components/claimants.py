"""Who claims an output: this process among all that share a file system.

Processes of one running system see each other's locks. Other machines may not, on a shared volume,
so a claimant also touches its claim every few seconds. Standard library only.
"""

import contextlib
import os
import platform
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

BEAT = 10.0  # seconds between two touches
SILENCE = 45.0  # seconds without one after which a claimant on another machine is gone
SYSTEM = Path("/proc/sys/kernel/random/boot_id")


def facts() -> dict[str, Any]:
    """What a claim says of this process."""
    return {
        "system": _system(),
        "host": platform.node(),
        "pid": os.getpid(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def describe(claim: Mapping[str, Any]) -> str:
    """The process of a claim, for the end of a line; empty where the claim does not say."""
    if "pid" not in claim:
        return ""
    return f": process {claim['pid']} on {claim.get('host')}, since {claim.get('started')}"


def is_elsewhere(claim: Mapping[str, Any], file: Path) -> bool:
    """Whether a process on another machine still touches this claim; waits until that is clear."""
    if claim.get("system") in (None, _system()):
        return False
    first, end = file.stat().st_mtime_ns, time.monotonic() + SILENCE
    while time.monotonic() < end:
        time.sleep(min(1.0, BEAT))
        if file.stat().st_mtime_ns != first:
            return True
    return False


@contextlib.contextmanager
def touching(files: list[Path]) -> Iterator[None]:
    """Within the block a thread touches the claims."""
    is_over = threading.Event()

    def touch() -> None:
        while not is_over.wait(BEAT):
            for file in files:
                with contextlib.suppress(OSError):
                    os.utime(file)

    thread = threading.Thread(target=touch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _system() -> str:
    """Names the running system: a container has that of its machine."""
    try:
        return SYSTEM.read_text().strip()
    except OSError:
        return platform.node()
