"""The sandbox and its machine: a parent that dies, no privileges, a protection that is missing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.components.rewards.test_sandbox import is_sandboxed, running, wait_for
from tests.conftest import ROOT


def test_nothing_outlives_the_parent():
    """Not even one that was killed and could not clean up."""
    script = "from components.rewards import sandbox\n"
    script += "sandbox.passes('import time\\ntime.sleep(10**6)', 'f(1)', sandbox.Limits(10**6))"
    with subprocess.Popen([sys.executable, "-c", script], cwd=ROOT) as parent:
        numbers = wait_for(lambda: len(running(parent.pid)) == 2 and running(parent.pid))
        for number in numbers:
            wait_for(lambda file=Path("/proc", number, "status"): "Seccomp:\t2" in file.read_text())
        parent.kill()
    wait_for(lambda: not any(is_sandboxed(Path("/proc", number)) for number in numbers))


def start(prelude, *prefix):
    """`passes` on a correct program, in a process of its own after the prelude."""
    script = f"{prelude}\nfrom components.rewards import sandbox\n"
    script += "print(sandbox.passes('def f():\\n    return 1', 'assert f() == 1'))"
    return subprocess.run(
        [*prefix, sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests ran without privileges already")
def test_no_privilege_is_needed():
    without = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
    caps = "assert 'CapEff:\\t0000000000000000' in open('/proc/self/status').read()"
    done = start(caps, *without)
    assert done.stdout.strip() == "True", done.stderr


@pytest.mark.parametrize(
    ("call", "named"), [("landlock_create_ruleset", "Landlock"), ("prctl", "parent-death signal")]
)
def test_a_machine_without_protection_runs_nothing(call, named):
    """As in a container whose runtime blocks the system call."""
    prelude = f"""
import errno, pyseccomp
rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
rules.add_rule(pyseccomp.ERRNO(errno.EPERM), {call!r})
rules.load()"""
    done = start(prelude)
    assert "True" not in done.stdout
    assert f"SandboxError: code is not run: this machine lacks a protection ({named}" in done.stderr
