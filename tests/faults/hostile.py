"""What hostile input is made of, and what must hold for each case: shared by test_hostile.py.

A case is accepted, or ends in an error that `components.cli` prints as one line. It takes no ten
seconds and no gigabyte, and writes nothing outside its own folder.
"""

import contextlib
import json
import os
import random
import resource
import sys
import time
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.failure import Failed, as_line, explain

CORPUS = Path(__file__).parent / "corpus"
CASES = {
    "configuration": 1500,
    "config": 1300,
    "header": 900,
    "adapter": 1000,
    "index": 600,
    "row": 1200,
    "tokenizer": 250,
    "chat": 700,
    "judge": 900,
    "executor": 600,
    "name": 800,
    "manifest": 400,
    "record": 600,
    "written": 400,
}
SECONDS, MEMORY = 10, 1 << 30
LINES = (ValueError, OSError, FloatingPointError, Failed)  # that the command line prints
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.chmod"}

PLAIN = [None, True, False, 0, 1, -1, 7, 0.5, -0.0, "", "a", "test", [], {}, [1], {"a": 1}]
NUMBERS = [
    2**31,
    2**53,
    2**63,
    2**64,
    10**9,
    10**400,
    -(10**400),
    1e308,
    float("nan"),
    float("inf"),
]
NAMES = ["..", "../../x", "/etc/passwd", "\0", "\ud800", "a" * 300, "a\nb", "%s%n", "__class__"]
PATTERNS = ["(a+)+$", ".*" * 40, "(?:a?){50}", "[", "\u202e", "<|mdm_mask|>", "\x1b[2J", "Infinity"]
DEEP = json.loads("[" * 200 + "]" * 200)


def changed(value):
    """A JSON value with one to three of its parts, at any depth, replaced, removed or added.

    Hypothesis draws one number for it, which is all that the changes depend on: drawing each part
    by itself takes ten times as long as what is tested.
    """
    return st.integers(0, 2**64).map(lambda seed: _changed(value, random.Random(seed)))


values = st.integers(0, 2**64).map(lambda seed: _value(random.Random(seed)))


def _changed(value, draw):
    for _ in range(draw.randint(1, 3)):
        value = _change(value, draw)
    return value


def _change(value, draw):
    keys = list(value) if isinstance(value, dict) else []
    keys = range(len(value)) if isinstance(value, list) else keys
    if not keys or draw.random() < 0.1:
        return _value(draw)
    copy, key, action = value.copy(), draw.choice(keys), draw.random()
    if action < 0.1:
        del copy[key]
    elif action < 0.2 and isinstance(copy, dict):
        copy[draw.choice([*NAMES, *PATTERNS, "x"])] = _value(draw)
    elif action < 0.4:
        copy[key] = _value(draw)
    else:
        copy[key] = _change(copy[key], draw)
    return copy


def _value(draw, depth=0):
    kind = draw.random()
    if kind < 0.1 and depth < 3:
        return [_value(draw, depth + 1) for _ in range(draw.randint(0, 3))]
    if kind < 0.2 and depth < 3:
        return {draw.choice(NAMES): _value(draw, depth + 1) for _ in range(draw.randint(0, 3))}
    if kind < 0.22:
        return DEEP
    if kind < 0.4:
        return draw.choice([draw.randint(-5, 5), draw.randint(-(2**70), 2**70), draw.gauss(0, 1e3)])
    return draw.choice(draw.choice([PLAIN, NUMBERS, NAMES, PATTERNS]))


def cases(count):
    """So many cases, the same in every run."""
    return settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def stored(kind):
    """The stored cases of a kind, each a JSON value."""
    lines = (CORPUS / f"{kind}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


class Watch:
    """Raises where this process writes outside `folder`, while there is one."""

    def __init__(self):
        self.folder = None
        sys.addaudithook(self)

    def __call__(self, event, arguments):
        if self.folder is None:
            return
        is_open = event == "open" and isinstance(arguments[2], int)
        # Names below an open folder are relative to it: removing a tree goes that way.
        is_below = event in CHANGES and arguments[-1] != -1
        if (is_open and arguments[2] & WRITING) or (event in CHANGES and not is_below):
            for path in arguments[: 2 if event == "os.rename" else 1]:
                self._check(path)

    def _check(self, path):
        if isinstance(path, int):
            return
        place = os.path.realpath(os.fsdecode(path))
        if place not in (os.devnull, self.folder) and not place.startswith(
            f"{self.folder}{os.sep}"
        ):
            self.folder = None
            raise AssertionError(f"wrote to {place}")


WATCH = Watch()


@contextlib.contextmanager
def bounded(folder):
    """Within the block the case may succeed, or fail in a line; more than that is an error."""
    began, memory = time.process_time(), _peak()
    WATCH.folder = os.path.realpath(folder)
    try:
        yield
    except LINES as error:
        line = as_line(explain(error))
        assert line and len(line.splitlines()) == 1 and line.isprintable()
    finally:
        WATCH.folder = None
    assert time.process_time() - began < SECONDS
    assert _peak() - memory < MEMORY


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def each(kind, strategy):
    """The test of a kind: the stored cases, then as many new ones as CASES says."""

    def decorate(attempt):
        def run(tmp_path_factory, request):
            folder = tmp_path_factory.mktemp(kind)
            count = 0

            def one(case):
                nonlocal count
                count += 1
                with bounded(folder):
                    attempt(folder, case)

            for case in stored(kind):
                one(case)
            cases(CASES[kind])(given(strategy)(one))()
            assert count >= CASES[kind]

        run.__doc__ = attempt.__doc__
        return run

    return decorate
