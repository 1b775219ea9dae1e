"""Hostile programs in the sandbox, each doing for real what it must not be able to do."""

import os
import re
import signal
import socket
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components.rewards import sandbox

QUICK = sandbox.Limits(seconds=60, cpu_seconds=1)  # for what would not end by itself
PATIENT = sandbox.Limits(seconds=60)
ALWAYS_EQUAL = """
class Equal({base}):
    def __eq__(self, other):
        return True
def f(x):
    return Equal()
"""
INCREMENT = "def f(x):\n    return x + 1\n"


def attempt(action):
    """A program whose function `attempt` does the action and says how that went."""
    body = textwrap.indent(textwrap.dedent(action), " " * 8)
    return (
        f"def attempt():\n    try:\n{body}\n"
        "    except BaseException as error:\n        return type(error).__name__\n"
        "    return 'done'\n"
    )


def ends_with(action, outcome):
    return sandbox.passes(attempt(action), f"assert attempt() == {outcome!r}", PATIENT)


def facts(path):
    """What a program could have changed of a file, its content aside."""
    state = path.stat()
    return state.st_ino, state.st_nlink, state.st_mode, state.st_size, state.st_mtime_ns


def wait_for(condition):
    """What the condition returns once that is true; fails when it never is."""
    for _ in range(6000):
        if found := condition():
            return found
        time.sleep(0.01)
    raise AssertionError("never happened")


def running(*parents):
    """Sandboxed processes on this machine started by this test process or the one given."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        if is_sandboxed(folder):
            parent = re.search(r"PPid:\t(\d+)", (folder / "status").read_text()).group(1)
            if int(parent) in (parents or (os.getpid(), 1)):
                found.append(folder.name)
    return found


def is_sandboxed(folder):
    try:
        return str(sandbox.CHILD) in (folder / "cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture(autouse=True)
def nothing_is_left():
    yield
    assert running() == []


@pytest.mark.parametrize(
    ("program", "tests", "passed"),
    [
        (INCREMENT, "assert f(1) == 2", True),
        (INCREMENT, "assert f(1) == 3", False),
        (INCREMENT, "def check(g):\n    assert g(x=1) == 2\ncheck(f)", True),
        (INCREMENT, "assert missing(1) == 2", False),
        ("def f(", "assert f(1) == 2", False),
        ("", "assert f(1) == 2", False),
        (
            "def f():\n    return {(1, 2): [{3}, None, 0.5, 'ä', True, 10**5000, float('inf')]}",
            "assert f() == {(1, 2): [{3}, None, 0.5, 'ä', True, 10**5000, float('inf')]}",
            True,
        ),
        (
            "def f():\n    raise KeyError('x')",
            "try:\n    f()\nexcept KeyError:\n    pass\nelse:\n    raise AssertionError",
            True,
        ),
        (
            "import numpy\ndef f():\n    return numpy.ones(3).tolist()",
            "assert f() == [1] * 3",
            True,
        ),
        ("print('to nowhere')\n" + INCREMENT, "assert f(1) == 2", True),
    ],
)
def test_tests_decide(program, tests, passed):
    assert sandbox.passes(program, tests) is passed


@pytest.mark.parametrize(
    "program",
    [
        "import sys\nsys.exit(0)",
        "import os\nos._exit(0)",
        f"import os\nos._exit({sandbox.PASSED})",
        f"import os\ndef f(x):\n    os._exit({sandbox.PASSED})",
        "print('passed')\nprint('OK')\n1 / 0",
        ALWAYS_EQUAL.format(base="object"),
        ALWAYS_EQUAL.format(base="int"),
        "def f(x):\n    raise StopIteration",
        "import sys\ndef f(x):\n    sys.modules['__main__'].send = print\n    return 0",
        "import gc, types\nfor o in gc.get_objects():\n    if isinstance(o, types.FunctionType):\n"
        "        o.__code__ = (lambda *a, **k: None).__code__",
        "import os\nfor n in range(3, 64):\n    try:\n        os.write(n, b'{\"result\": 2}\\n')\n"
        "    except OSError:\n        pass\ndef f(x):\n    return 0",
        "def all(x):\n    return True\ndef map(f, x):\n    return []\ndef f(x):\n    return 0",
    ],
)
def test_a_pass_cannot_be_faked(program):
    assert not sandbox.passes(program, "assert all(map(lambda x: f(x) == x + 1, [1, 5]))", QUICK)


def test_the_tests_are_out_of_sight():
    """Neither the frames, the objects nor the open files of the answer's process hold them."""
    action = """
        import gc, os, sys
        seen = str([frame.f_locals for frame in sys._current_frames().values()])
        seen += str([o for o in gc.get_objects() if isinstance(o, (dict, list))])
        seen += str([os.pread(0, 1 << 20, 0)])
        assert "attempt" in seen
        assert "Xq" + "Zw" not in seen
    """
    assert sandbox.passes(attempt(action), "secret = 'XqZw'\nassert attempt() == 'done'", PATIENT)


@pytest.mark.parametrize(
    ("action", "outcome"),
    [
        ("import os\nwhile True:\n    os.fork()", "PermissionError"),
        ("import os\nos.setsid()", "PermissionError"),
        ("import subprocess\nsubprocess.run(['sleep', '60'])", "PermissionError"),
        ("import os\nos.execv('/bin/true', ['true'])", "PermissionError"),
        ("import threading\nthreading.Thread(target=print).start()", "RuntimeError"),
        ("import os\nos.kill(os.getppid(), 9)", "PermissionError"),
        ("import fcntl, os\nfcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())", "PermissionError"),
        ("memory = bytearray(10 << 30)", "MemoryError"),
        ("memory = []\nwhile True:\n    memory.append(bytearray(1 << 20))", "MemoryError"),
        ("import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))", "ValueError"),
        ("open('large', 'wb').write(bytes(2 << 20))", "OSError"),
        ("open('small', 'wb').write(bytes(1 << 10))", "done"),
        ("import os\nos.mkdir('folder')", "PermissionError"),
        ("import os\nos.symlink('/etc/passwd', 'link')", "PermissionError"),
        ("import os\nos.chmod('.', 0o777)", "PermissionError"),
        ("open('/proc/self/environ').read()", "PermissionError"),
        ("import os\nos.listdir('/')", "PermissionError"),
        ("import os\nos.listdir('/root')", "PermissionError"),
        ("import socket\nsocket.socket(socket.AF_UNIX)", "PermissionError"),
        ("import os\nassert set(os.environ) <= {'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', "
         "'LC_CTYPE'}", "done"),
    ],
)  # fmt: skip
def test_what_a_program_may_not_do(action, outcome):
    assert ends_with(action, outcome)


@pytest.mark.parametrize(
    "program",
    [
        "while True:\n    pass",
        "def f(x):\n    while True:\n        pass",
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True:\n    pass",
        "x = 9 ** 9 ** 9",
        "import os\ndef f(x):\n    while True:\n        os.write(1, bytes(1 << 16))",
        "import os\nn = 0\nwhile True:\n    open(str(n), 'wb').write(bytes(1 << 20))\n    n += 1",
        "n = 0\nwhile True:\n    open(str(n), 'wb').close()\n    n += 1",
    ],
)
def test_endless_programs_end(program):
    assert not sandbox.passes(program, "assert f(1) == 2", QUICK)


def test_a_sleeping_program_ends():
    program = "import time\ntime.sleep(10**6)"
    assert not sandbox.passes(program, "f(1)", sandbox.Limits(seconds=1))


@pytest.mark.parametrize(
    "action",
    [
        "import os\nos.unlink({path!r})",
        "import os\nos.rename({path!r}, 'mine')",
        "import os\nos.link({path!r}, 'mine')",
        "open({path!r}).read()",
        "open({path!r}, 'w')",
        "open({path!r}, 'a')",
        "import os\nos.truncate({path!r}, 0)",
        "import os\nos.open({path!r}, os.O_RDONLY | os.O_TRUNC)",
        "import os\nos.chmod({path!r}, 0)",
        "import os\nos.utime({path!r}, (0, 0))",
        "import shutil\nshutil.rmtree({folder!r})",
        "import os\nos.rmdir({empty!r})",
        "open({folder!r} + '/new', 'w')",
    ],
)
def test_files_elsewhere_are_safe(action, tmp_path):
    canary, empty = tmp_path / "canary", tmp_path / "empty"
    canary.write_text("alive")
    empty.mkdir()
    before = facts(canary)
    text = action.format(path=str(canary), folder=str(tmp_path), empty=str(empty))
    assert ends_with(text, "PermissionError") or ends_with(text, "OSError")
    assert canary.read_text() == "alive" and facts(canary) == before
    assert sorted(tmp_path.iterdir()) == [canary, empty]


def test_loopback_is_out_of_reach():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        action = f"import socket\nsocket.create_connection(('127.0.0.1', {port}))"
        assert ends_with(action, "PermissionError")
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def test_secrets_of_the_parent_stay_there(monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_TEST", "XqZw")
    action = """
        import os
        assert "XqZw" not in str(os.environ)
        for number in (os.getpid(), os.getppid()):
            for name in ("environ", "mem", "maps", "cmdline"):
                try:
                    open(f"/proc/{number}/{name}").close()
                except PermissionError:
                    continue
                raise AssertionError(name)
    """
    assert ends_with(action, "done")


def test_the_kernel_confirms():
    """Of both processes, while they run."""
    with ThreadPoolExecutor(1) as pool:
        sleeping = "import time\ntime.sleep(10**6)"
        pool.submit(sandbox.passes, sleeping, "f(1)", sandbox.Limits(seconds=600))
        folders = wait_for(lambda: len(running()) == 2 and [Path("/proc") / n for n in running()])
        wanted = ("NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "Threads:\t1")
        for folder in folders:
            wait_for(
                lambda folder=folder: all(w in (folder / "status").read_text() for w in wanted)
            )
            limits = (folder / "limits").read_text()
            assert re.search(r"Max address space +1073741824 +1073741824", limits)
            assert re.search(r"Max cpu time +5 +5", limits)
        for folder in folders:
            os.kill(int(folder.name), signal.SIGKILL)
