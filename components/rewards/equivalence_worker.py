"""The process in which math-verify reads and compares expressions. `equivalence` starts it.

Reads one JSON list a line, [reference, answer] to compare or [reference] to read, and writes one
JSON verdict a line. A line that takes too much processor time ends the process: the profiling
timer's signal is left to the kernel, because a handler in Python would wait for a huge power or a
deep parse to finish first.
"""

import json
import logging
import re
import resource
import signal
import sys

from math_verify import parse, verify

LATEX = ("$", r"\(", r"\[", r"\boxed")
CURRENCY = re.compile(r"\\\$|[€£¥₹]|(?<=\d)\s*dollars?\b", re.IGNORECASE)


def read(text: str) -> list:
    """What math-verify reads in a text; a text without LaTeX marks is one formula as a whole.

    Percent signs and most units are math-verify's own matter. Signs of a currency are dropped here,
    since LaTeX's `\\$` is to it the end of a formula; so is `$` where it has no partner.
    """
    plain = CURRENCY.sub("", text)
    if plain.count("$") % 2:
        plain = plain.replace("$", "")
    marked = plain if any(mark in plain for mark in LATEX) else f"${plain}$"
    return parse(marked, parsing_timeout=None)


def compare(reference: str, answer: str | None = None) -> str:
    """One of right, wrong, unreadable; the last when the reference is no expression.

    Without an answer it is readable or unreadable.
    """
    expected = read(reference)
    if not expected:
        return "unreadable"
    if answer is None:
        return "readable"
    return "right" if verify(expected, read(answer), timeout_seconds=None) else "wrong"


def main() -> None:
    """Serves comparisons until standard input ends."""
    seconds, memory = float(sys.argv[1]), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    logging.disable()
    compare("x^2 + 1", r"\frac{2}{2} + x^2")  # The first comparison fills the grammar's caches.
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        verdict = compare(*json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(verdict), flush=True)


if __name__ == "__main__":
    main()
