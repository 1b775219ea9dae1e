"""The process in which math-verify reads and compares expressions. `equivalence` starts it.

Reads a JSON list per line, [reference, answer] to compare or [reference] to read, and writes a JSON
verdict per line. A line that takes too much processor time ends the process by the profiling
timer's signal. It has no handler in Python: a handler would run only after the huge power or the
deep parse has been finished.
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
    """The expressions that math-verify reads in a text. A text without LaTeX marks is one formula.

    math-verify handles percent signs and most units itself. Currency signs are dropped here,
    because it takes LaTeX's `\\$` for the end of a formula; a `$` without a partner is dropped too.
    """
    plain = CURRENCY.sub("", text)
    if plain.count("$") % 2:
        plain = plain.replace("$", "")
    marked = plain if any(mark in plain for mark in LATEX) else f"${plain}$"
    return parse(marked, parsing_timeout=None)


def compare(reference: str, answer: str | None = None) -> str:
    """ "right", "wrong", or "unreadable" if the reference is not an expression.

    Without an answer: "readable" or "unreadable".
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
    # The first comparison fills the grammar's caches, which must not count as its time.
    compare("x^2 + 1", r"\frac{2}{2} + x^2")
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, seconds)
        verdict = compare(*json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(verdict), flush=True)


if __name__ == "__main__":
    main()
