"""Runs an untrusted program against tests without danger to the machine or to the verdict.

Each answer gets two processes, both started from `sandbox_inside`: one runs the answer, the other
runs the tests, which call the answer's functions through pipes. Each process confines itself before
it runs code of an answer or a test. The kernel enforces the confinement, for root as for any other
user, and no privilege is needed to set it up:

    endless programs   this process kills both after `seconds`; RLIMIT_CPU ends busy ones earlier
    memory             RLIMIT_AS
    other processes    seccomp refuses fork, threads, exec, and signals to anybody else, so that no
                       process can be left behind or disturbed
    files              Landlock grants plain files in a scratch directory, and reading Python's own
                       directories; RLIMIT_FSIZE bounds one file, `_watch` the whole directory
    network            seccomp refuses sockets of every family
    privileges         all capabilities are dropped, and no_new_privs keeps new ones away
    secrets            the environment is empty; /proc and home directories cannot be opened
    a forged verdict   the tests run in a process that the answer reaches through plain data alone

Not protected: a program can look up names, sizes and dates of any file (stat), read Python's
packages, keep two cores busy until its time is over, and use side channels. Needs Linux 5.13 with
Landlock, and libseccomp. Where a protection is missing nothing is run: SandboxError.
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

CHILD = Path(__file__).with_name("sandbox_inside.py")
START_SECONDS = 60  # a busy machine may take long to start Python
WATCH_SECONDS = 0.01  # between two looks at the scratch directory
SMALLEST_FILE = 4096  # bytes that count for an empty file, which takes up an inode too

# The system calls that Python needs to compute, to read its own files and to write plain ones. It
# is a list of what is allowed, so that a call that a later kernel adds is refused: all others fail
# with "operation not permitted".
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

# System calls that are allowed if `argument & mask == value`, as (position, mask, value).
# fcntl: not F_SETOWN and F_SETSIG, by which a process sends signals to others.
# prlimit64: only with no new limits (a null pointer), that is to read the limits.
# openat: not O_TRUNC with O_RDONLY, which empties a file; Landlock forbids that since ABI 3 only.
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
    """This machine lacks a protection, which the message names, so that no code may run here."""


@dataclass(frozen=True)
class Limits:
    """How much the answer may use, and its tests once more; `seconds` and `files` they share."""

    seconds: float = 10.0
    """Wall-clock time."""
    cpu_seconds: int = 5
    """Processor time."""
    memory: int = 1 << 30
    """Bytes of address space."""
    file: int = 1 << 20
    """Bytes of one file."""
    files: int = 1 << 23
    """Bytes of all files in the scratch directory, of which each counts as 4096 at least."""
    open_files: int = 64
    """Files open at once."""


def passes(program: str, tests: str, limits: Limits = Limits()) -> bool:
    """Whether the tests, Python code with assertions, run to their end against the program.

    Tests call functions that the program defines, by name. Arguments and results are plain data:
    numbers, texts, None, lists, tuples, sets and dictionaries. Classes, changes to arguments, and
    functions named like a builtin do not reach the tests. Raises SandboxError if this machine lacks
    a protection; nothing that the program does raises anything, at worst it does not pass.
    """
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="sandbox-"))
        call_reader, call_writer = _pipe(stack)
        result_reader, result_writer = _pipe(stack)
        launch = functools.partial(_launch, stack, scratch, limits)
        answer = launch("serve", program, [(call_reader, "r"), (result_writer, "w")])
        tester = launch("test", tests, [(call_writer, "w"), (result_reader, "r")])
        # With no copies of the ends here, a process reads the end of file when its peer dies.
        for end in (call_reader, call_writer, result_reader, result_writer):
            end.close()
        for child in (answer, tester):
            _await_confinement(child)
        return _watch(tester.process, Path(scratch), limits) == PASSED


def check() -> None:
    """Raises SandboxError unless a correct program passes and a wrong one fails on this machine."""
    right = passes("def double(x):\n    return 2 * x", "assert double(2) == 4")
    if not right or passes("def double(x):\n    return x", "assert double(2) == 4"):
        raise SandboxError("the sandbox does not run programs on this machine")


class _Child(NamedTuple):
    process: subprocess.Popen
    status: Any
    """The end of a pipe from which "ready" is read, or the protection that is missing."""


def _launch(
    stack: ExitStack, scratch: str, limits: Limits, role: str, source: str, channels: list
) -> _Child:
    """Starts a child that confines itself and then plays its role; the stack's end kills it."""
    status_reader, status_writer = _pipe(stack)
    setup = {
        "role": role,
        "source": source,
        "parent": os.getpid(),
        "scratch": scratch,
        "readable": _readable(),
        "limits": _resource_limits(limits),
        "filter": _filter(),
        "channels": [(end.fileno(), mode) for end, mode in channels],
    }
    # A file, because writing a long program to a pipe would block until the child reads it.
    with tempfile.TemporaryFile("w+") as file:
        json.dump(setup, file)
        file.seek(0)
        process = subprocess.Popen(
            # -I: isolated from this directory and from PYTHON* variables; -B: writes no bytecode.
            [sys.executable, "-I", "-B", str(CHILD), str(status_writer.fileno())],
            stdin=file,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[status_writer.fileno(), *(end.fileno() for end, _ in channels)],
            # NumPy's libraries would start threads, which seccomp refuses.
            env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
    # Callbacks run last in, first out: kill, then wait.
    stack.callback(process.wait)
    stack.callback(process.kill)
    status_writer.close()
    return _Child(process, status_reader)


def _await_confinement(child: _Child) -> None:
    """Waits until the child is confined. Raises SandboxError with its reason if it cannot be.

    The program starts after that, so a failure before is the machine's and never the program's.
    """
    poll = select.poll()
    poll.register(child.status, select.POLLIN)
    is_readable = bool(poll.poll(START_SECONDS * 1000))
    message = os.read(child.status.fileno(), 1000).decode() if is_readable else ""
    if message != "ready":
        reason = message or "no process started"
        raise SandboxError(f"code is not run: this machine lacks a protection ({reason})")


def _watch(tester: subprocess.Popen, scratch: Path, limits: Limits) -> int | None:
    """The exit code of the tests, or None once the time or the space is used up."""
    deadline = time.monotonic() + limits.seconds
    while time.monotonic() < deadline and _size(scratch) <= limits.files:
        with suppress(subprocess.TimeoutExpired):
            return tester.wait(WATCH_SECONDS)
    return None


def _size(scratch: Path) -> int:
    """Bytes in the scratch directory, which has no subdirectories: mkdir is refused."""
    total = 0
    for entry in os.scandir(scratch):
        # The program may delete a file between the listing and the look at its size.
        with suppress(FileNotFoundError):
            total += max(entry.stat(follow_symlinks=False).st_size, SMALLEST_FILE)
    return total


def _pipe(stack: ExitStack) -> tuple[Any, Any]:
    """The reading and the writing end of a pipe, closed with the stack at the latest."""
    reader, writer = os.pipe()
    return (
        stack.enter_context(open(reader, "rb", buffering=0)),
        stack.enter_context(open(writer, "wb", buffering=0)),
    )


def _readable() -> list[str]:
    """The directories of Python's own files and of the shared libraries that they load."""
    paths = {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values()}
    system = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo")
    return sorted({*paths, *system})


def _resource_limits(limits: Limits) -> dict[str, int]:
    """The limits by the names that the module `resource` has for them."""
    return {
        "RLIMIT_CPU": math.ceil(limits.cpu_seconds),
        "RLIMIT_AS": limits.memory,
        "RLIMIT_FSIZE": limits.file,
        "RLIMIT_NOFILE": limits.open_files,
        "RLIMIT_CORE": 0,  # a dump of the process would be one more file
    }


@functools.cache
def _filter() -> str:
    """The seccomp filter as the kernel takes it, in base64. Raises SandboxError if it cannot be.

    It is compiled here, because the children import nothing beyond the standard library.
    """
    try:
        # Imported here, because it loads libseccomp, which runs without code do not need.
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
