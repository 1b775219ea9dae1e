"""How far a transfer is: bytes, rate and time left, in a line every ten seconds."""

import threading
import time

SECONDS = 10.0  # between two lines, and before the first one
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


class Progress:
    """Counts the bytes of a transfer, from several threads."""

    def __init__(self, title: str, total: int) -> None:
        """`title` begins each line; `total` is the number of bytes of all files."""
        self.title, self.total, self.done, self.skipped = title, total, 0, 0
        self.started = self.said = time.monotonic()
        self.lock = threading.Lock()

    def add(self, count: int) -> None:
        """Counts bytes that were sent or received."""
        with self.lock:
            self.done += count
            now = time.monotonic()
            if now - self.said >= SECONDS:
                self.said = now
                print(self.line(now - self.started), flush=True)

    def skip(self, count: int) -> None:
        """Counts bytes that an earlier try has transferred; they say nothing of the rate."""
        with self.lock:
            self.skipped += count

    def line(self, seconds: float) -> str:
        """The state after so many seconds."""
        done, rate = self.done + self.skipped, self.done / seconds
        left = f"{(self.total - done) / rate:.0f} s left" if rate else "nothing arrives"
        share = f"{done / self.total:.0%}" if self.total else "all"
        amount = f"{size(done)} of {size(self.total)} ({share})"
        return f"{self.title}: {amount}, {size(rate)}/s, {left}"


def size(count: float) -> str:
    """A number of bytes in the largest unit that keeps it above one."""
    step = 0
    while count >= 1024 and step < len(UNITS) - 1:
        count, step = count / 1024, step + 1
    return f"{count:.1f} {UNITS[step]}" if step else f"{count:.0f} B"
