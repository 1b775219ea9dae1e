"""The inside of the sandbox: confines its own process, then runs one program.

`sandbox` starts this file twice for each answer. One process runs the answer and serves calls of
its functions; the other runs the tests, which reach the answer through those calls only. Arguments
and results cross as plain data: the answer cannot see the tests, nor return an object that claims
to be equal to everything. Standard library only, so that nothing but Python has to be readable.

`components.rewards.sandbox` decides what is allowed, how much of it and for how long.
"""

import base64
import builtins
import ctypes
import json
import os
import resource
import sys
from collections.abc import Callable
from typing import Any, NoReturn

PASSED = 77  # no exit code that Python or a signal produces by itself
RECURSION = 10_000  # recursive answers are common, and RLIMIT_AS still bounds the stack
# ctypes has no constants of the kernel's; these are from <linux/prctl.h>, <linux/seccomp.h> and
# <linux/capability.h>. A set of capabilities is two words of 32 bits, three sets make six words.
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
SIGKILL, SECCOMP_MODE_FILTER, FILTER_BYTES = 9, 2, 8
CAPABILITY_VERSION, CAPABILITY_WORDS = 0x20080522, 6

# Landlock's system calls have these numbers on every architecture. The rights are bits from
# <linux/landlock.h>: the first 13 since ABI 1, REFER since 2, TRUNCATE since 3, IOCTL_DEV since 5.
CREATE_RULESET, ADD_RULE, RESTRICT_SELF, GET_VERSION, PATH_BENEATH = 444, 445, 446, 1, 1
WRITE_FILE, READ_FILE, READ_DIR, REMOVE_FILE, MAKE_REG = 1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 8
FIRST_RIGHTS, REFER, TRUNCATE, IOCTL_DEV = (1 << 13) - 1, 1 << 13, 1 << 14, 1 << 15

C = ctypes.CDLL(None, use_errno=True)


class Ruleset(ctypes.Structure):
    """struct landlock_ruleset_attr of ABI 1: the rights that only a rule can grant."""

    _fields_ = (("handled", ctypes.c_uint64),)


class PathBeneath(ctypes.Structure):
    """struct landlock_path_beneath_attr: rights on a directory and all below it."""

    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("directory", ctypes.c_int32))


class Filter(ctypes.Structure):
    """struct sock_fprog: the number of instructions of a seccomp filter, and their address."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def confine(setup: dict[str, Any]) -> None:
    """Limits this process for good. Raises OSError naming a protection that the machine lacks.

    Seccomp comes last, because its filter refuses the system calls of the other steps.
    """
    _call("parent-death signal", C.prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    # The signal is not sent for a parent that died before it was asked for.
    if os.getppid() != setup["parent"]:
        raise OSError("the parent is gone")
    for name, value in setup["limits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))
    os.chdir(setup["scratch"])
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    _call("capabilities", C.capset, header, (ctypes.c_uint32 * CAPABILITY_WORDS)())
    # Landlock and seccomp are open to processes without privileges only after this.
    _call("no_new_privs", C.prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    restrict_files(setup["readable"], setup["scratch"])
    instructions = base64.b64decode(setup["filter"])
    program = Filter(len(instructions) // FILTER_BYTES, instructions)
    _call("seccomp", C.prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)


def restrict_files(readable: list[str], scratch: str) -> None:
    """Landlock: allows reading below `readable`, plain files in `scratch`, and no other file.

    Rights that are not handled stay allowed, and a kernel refuses to handle rights that it does not
    know; so all rights on files that this kernel's ABI has are handled.
    """
    version = _call("Landlock", C.syscall, CREATE_RULESET, None, 0, GET_VERSION)
    truncate = TRUNCATE if version >= 3 else 0
    later = (REFER if version >= 2 else 0) | truncate | (IOCTL_DEV if version >= 5 else 0)
    handled = Ruleset(FIRST_RIGHTS | later)
    size = ctypes.sizeof(handled)
    rules = _call("Landlock", C.syscall, CREATE_RULESET, ctypes.byref(handled), size, 0)
    _grant(rules, scratch, READ_FILE | READ_DIR | WRITE_FILE | MAKE_REG | REMOVE_FILE | truncate)
    for path in readable:
        if os.path.exists(path):
            _grant(rules, path, READ_FILE | READ_DIR if os.path.isdir(path) else READ_FILE)
    _call("Landlock", C.syscall, RESTRICT_SELF, rules, 0)
    os.close(rules)


def _grant(rules: int, path: str, rights: int) -> None:
    handle = os.open(path, os.O_PATH)
    rule = ctypes.byref(PathBeneath(rights, handle))
    _call("Landlock", C.syscall, ADD_RULE, rules, PATH_BENEATH, rule, 0)
    os.close(handle)


def _call(protection: str, function: Callable, *arguments: Any) -> int:
    """What a function of libc returns. Raises OSError with the protection's name if it fails."""
    result = function(*arguments)
    if result < 0:
        raise OSError(f"{protection}: {os.strerror(ctypes.get_errno())}")
    return result


def pack(value: Any) -> Any:
    """A value as JSON, containers tagged by their kind. Raises TypeError unless it is plain data.

    Numbers of subclasses become plain ones: a subclass could override `__eq__`.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        return (int if isinstance(value, int) else float)(value)
    if isinstance(value, dict):
        return {"dict": [[pack(key), pack(item)] for key, item in value.items()]}
    for kind in (list, tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: [pack(item) for item in value]}
    raise TypeError(f"{type(value).__name__} is no plain data")


def unpack(value: Any) -> Any:
    """The inverse of `pack`. Returns builtin types only, whatever the other process has sent."""
    if not isinstance(value, dict):
        return value
    ((name, items),) = value.items()
    if name == "dict":
        return {unpack(key): unpack(item) for key, item in items}
    return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[name](
        unpack(item) for item in items
    )


def serve(source: str, requests: Any, replies: Any) -> None:
    """Runs an answer, sends the names of its functions, and calls them until requests end."""
    requests.readline()  # "start", sent when the tests' process is confined too
    names: dict[str, Any] = {"__name__": "answer"}
    exec(compile(source, "answer", "exec"), names)
    send(replies, [name for name, item in names.items() if callable(item)])
    for line in requests:
        name, arguments, keywords = unpack(json.loads(line))
        try:
            send(replies, {"result": pack(names[name](*arguments, **keywords))})
        except Exception as error:
            send(replies, {"error": type(error).__name__})


def test(source: str, requests: Any, replies: Any) -> NoReturn:
    """Runs tests against the functions of an answer. The exit code is PASSED at their end only."""
    send(requests, "start")
    # An answer that redefines `abs` or `all` must not change what the tests mean by it.
    functions = [
        name
        for name in json.loads(replies.readline())
        if not name.startswith("__") and not hasattr(builtins, name)
    ]
    names: dict[str, Any] = {name: remote(name, requests, replies) for name in functions}
    exec(compile(source, "tests", "exec"), {**names, "__name__": "tests"})
    os._exit(PASSED)  # at once: no clean-up of the interpreter may change the code


def remote(name: str, requests: Any, replies: Any) -> Callable:
    """A function that calls the function of that name in the answer's process."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        send(requests, pack([name, arguments, keywords]))
        reply = json.loads(replies.readline())
        if "error" in reply:
            raise error_named(str(reply["error"]))
        return unpack(reply["result"])

    call.__name__ = name
    return call


def error_named(name: str) -> Exception:
    """The builtin exception of that name, for tests that expect it; RuntimeError for all others.

    So for StopIteration, which would end a loop of the tests early and so skip assertions.
    """
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception) and "Iteration" not in name:
        return kind()
    return RuntimeError(name)


def send(file: Any, message: Any) -> None:
    """One line of JSON."""
    file.write(json.dumps(message) + "\n")
    file.flush()


def main() -> None:
    """Reads the setup from standard input, confines itself, reports "ready", runs the program."""
    setup, status = json.load(sys.stdin), int(sys.argv[1])
    requests, replies = (os.fdopen(handle, mode) for handle, mode in setup["channels"])
    sys.set_int_max_str_digits(0)
    sys.setrecursionlimit(RECURSION)
    try:
        confine(setup)
    except OSError as error:
        os.write(status, str(error).encode())
        sys.exit(1)
    os.write(status, b"ready")
    os.close(status)
    {"serve": serve, "test": test}[setup["role"]](setup["source"], requests, replies)


if __name__ == "__main__":
    main()
