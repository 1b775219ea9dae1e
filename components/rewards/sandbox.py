"""Runs a program against tests where it can do no harm. What runs inside is `sandbox_inside`.

Held by the kernel, for root and for any other user alike, and without any privilege:

    time       wall clock by the parent, which kills; processor seconds by RLIMIT_CPU
    memory     RLIMIT_AS
    processes  seccomp: no fork, no thread, no exec, no signal to anyone; so nothing is left behind
    files      Landlock: plain files in a scratch directory, reads below Python's own directories;
               RLIMIT_FSIZE for one file, the parent's watch for the whole directory
    network    seccomp: no socket of any family
    privilege  no capability, none to be gained (no_new_privs)
    secrets    an empty environment; /proc and the home directory cannot be opened
    verdict    the tests run in another process, which the answer reaches through plain data alone

Not guarded: names, sizes and dates of files anywhere can be seen (stat), Python's packages can be
read, two cores can be busy until the time is over, and side channels stay. Linux 5.13 with Landlock
and libseccomp are needed; a machine that lacks a protection runs nothing: `SandboxError`.
"""

import base64
import errno
import fcntl
import functools
import importlib
import json
import math
import os
import select
import subprocess
import sys
import sysconfig
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from components.rewards.sandbox_inside import PASSED

INSIDE = Path(__file__).with_name("sandbox_inside.py")
START_SECONDS = 60
WATCH_SECONDS = 0.01

# All that Python needs to compute, to read its own files and to write plain ones. Everything else,
# known or not yet invented, answers "operation not permitted".
ALLOWED = """
    access alarm brk clock_getres clock_gettime clock_nanosleep close close_range dup dup2
    dup3 epoll_create1 epoll_ctl epoll_pwait epoll_wait exit exit_group faccessat faccessat2
    fdatasync fstat fstatfs fsync ftruncate futex getcwd getdents64 getegid geteuid getgid
    getpid getppid getrandom getresgid getresuid getrusage gettid gettimeofday getuid lseek
    lstat madvise membarrier mmap mprotect mremap munmap nanosleep newfstatat pipe2 poll
    ppoll pread64 preadv pselect6 pwrite64 pwritev read readlink readlinkat readv rename
    renameat renameat2 restart_syscall rt_sigaction rt_sigpending rt_sigprocmask
    rt_sigreturn sched_getaffinity sched_yield select setitimer sigaltstack stat statfs
    statx sysinfo time times umask uname unlink unlinkat write writev
"""

# Allowed with some arguments only, as (position, mask, value). fcntl could send signals to others
# (F_SETOWN with F_SETSIG), prlimit64 could raise limits, and a file opened for reading could be
# emptied (O_TRUNC), which Landlock stops only from its third version on.
ALLOWED_WITH = [
    *(
        ("fcntl", (1, 0xFFFFFFFF, command))
        for command in (
            fcntl.F_DUPFD,
            fcntl.F_DUPFD_CLOEXEC,
            fcntl.F_GETFD,
            fcntl.F_SETFD,
            fcntl.F_GETFL,
            fcntl.F_SETFL,
        )
    ),
    ("prlimit64", (2, 0xFFFFFFFFFFFFFFFF, 0)),
    ("openat", (2, os.O_TRUNC, 0)),
    ("openat", (2, os.O_ACCMODE, os.O_WRONLY)),
    ("openat", (2, os.O_ACCMODE, os.O_RDWR)),
]


class SandboxError(ValueError):
    """This machine cannot hold a program to its limits; the message names what is missing."""


@dataclass(frozen=True)
class Limits:
    """How much a program may use; the answer and its tests each get this."""

    seconds: float = 10.0
    """Wall-clock time of the answer and its tests together."""
    cpu_seconds: int = 5
    """Processor time."""
    memory: int = 1 << 30
    """Bytes of address space."""
    file: int = 1 << 20
    """Bytes of the largest file."""
    files: int = 1 << 23
    """Bytes of the scratch directory, each file counting as a block at least."""
    open_files: int = 64
    """Files open at once."""


def passes(program: str, tests: str, limits: Limits = Limits()) -> bool:
    """Whether the tests, Python code with assertions, run to their end against the program.

    Tests call functions that the program defines, by name, with plain data: numbers, texts, None,
    lists, tuples, sets and dictionaries; results are the same. Classes, changes to arguments and
    functions named like a builtin do not reach the tests. Raises SandboxError where this machine
    cannot protect itself; whatever the program does is False.
    """
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="sandbox-"))
        requests, asks = _pipe(stack)
        answers, replies = _pipe(stack)
        start = functools.partial(_start, stack, scratch, limits)
        answer = start("serve", program, [(requests, "r"), (replies, "w")])
        judge = start("test", tests, [(asks, "w"), (answers, "r")])
        for end in (requests, asks, answers, replies):
            end.close()
        for process in (answer, judge):
            _expect_ready(process)
        return _watch(judge.process, Path(scratch), limits) == PASSED


def check() -> None:
    """Raises SandboxError unless a correct program passes and a wrong one fails on this machine."""
    right = passes("def double(x):\n    return 2 * x", "assert double(2) == 4")
    if not right or passes("def double(x):\n    return x", "assert double(2) == 4"):
        raise SandboxError("the sandbox does not run programs on this machine")


class _Started(NamedTuple):
    process: subprocess.Popen
    status: Any


def _start(
    stack: ExitStack, scratch: str, limits: Limits, role: str, source: str, channels: list
) -> _Started:
    said, status = _pipe(stack)
    order = {
        "role": role,
        "source": source,
        "parent": os.getpid(),
        "scratch": scratch,
        "readable": _readable(),
        "limits": _resource_limits(limits),
        "filter": _filter(),
        "channels": [(file.fileno(), mode) for file, mode in channels],
    }
    with tempfile.TemporaryFile("w+") as paper:
        json.dump(order, paper)
        paper.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", str(INSIDE), str(status.fileno())],
            stdin=paper,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[status.fileno(), *(file.fileno() for file, _ in channels)],
            env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
    stack.callback(process.wait)
    stack.callback(process.kill)
    status.close()
    return _Started(process, said)


def _expect_ready(started: _Started) -> None:
    """Waits until the process is confined; what it says before that is not the program's doing."""
    poll = select.poll()
    poll.register(started.status, select.POLLIN)
    heard = poll.poll(START_SECONDS * 1000)
    said = os.read(started.status.fileno(), 1000).decode() if heard else ""
    if said != "ready":
        reason = said or "no process started"
        raise SandboxError(f"code is not run: this machine lacks a protection ({reason})")


def _watch(judge: subprocess.Popen, scratch: Path, limits: Limits) -> int | None:
    """The exit code of the tests, or None when the time or the space is used up."""
    deadline = time.monotonic() + limits.seconds
    while time.monotonic() < deadline and _used(scratch) <= limits.files:
        with suppress(subprocess.TimeoutExpired):
            return judge.wait(WATCH_SECONDS)
    return None


def _used(scratch: Path) -> int:
    used = 0
    for entry in os.scandir(scratch):
        with suppress(FileNotFoundError):
            used += max(entry.stat(follow_symlinks=False).st_size, 4096)
    return used


def _pipe(stack: ExitStack) -> tuple[Any, Any]:
    """Both ends of a pipe, closed with the stack at the latest."""
    ends = os.pipe()
    return (
        stack.enter_context(open(ends[0], "rb", buffering=0)),
        stack.enter_context(open(ends[1], "wb", buffering=0)),
    )


def _readable() -> list[str]:
    """Where Python's own files are, with the shared libraries that they load."""
    paths = {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values()}
    system = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo")
    return sorted({*paths, *system})


def _resource_limits(limits: Limits) -> dict[str, int]:
    return {
        "RLIMIT_CPU": math.ceil(limits.cpu_seconds),
        "RLIMIT_AS": limits.memory,
        "RLIMIT_FSIZE": limits.file,
        "RLIMIT_NOFILE": limits.open_files,
        "RLIMIT_CORE": 0,
    }


@functools.cache
def _filter() -> str:
    """The seccomp filter as the kernel takes it, in base64; SandboxError without libseccomp."""
    try:
        # Its import loads libseccomp, which only runs that execute code must have.
        seccomp: Any = importlib.import_module("pyseccomp")
    except (ImportError, OSError, RuntimeError) as error:
        raise SandboxError(
            f"code is not run: the seccomp library cannot be loaded ({error})"
        ) from None
    rules = seccomp.SyscallFilter(seccomp.ERRNO(errno.EPERM))
    for name in ALLOWED.split():
        rules.add_rule(seccomp.ALLOW, name)
    for name, (position, mask, value) in ALLOWED_WITH:
        rules.add_rule(seccomp.ALLOW, name, seccomp.Arg(position, seccomp.MASKED_EQ, mask, value))
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return base64.b64encode(file.read()).decode()
