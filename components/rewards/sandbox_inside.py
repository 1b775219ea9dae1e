"""The inside of the sandbox: confines its own process, then runs one program.

`sandbox` starts this file as a process of its own, twice for each answer: one process runs
the answer and serves calls of its functions, the other runs the tests, which reach the answer only
through those calls. Arguments and results cross as plain data, so that an answer can neither see
the tests nor hand them an object that claims to be equal to everything. Standard library only.

What is allowed, how much of it and for how long is decided in `components.rewards.sandbox`.
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

PASSED = 77
RECURSION = 10_000
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
SIGKILL, SECCOMP_MODE_FILTER, FILTER_BYTES = 9, 2, 8
CAPABILITY_VERSION, CAPABILITY_WORDS = 0x20080522, 6

# Landlock's system calls have these numbers on every architecture; the rights are the bits of
# <linux/landlock.h>. Later ones exist from ABI 2 (refer), 3 (truncate) and 5 (ioctl on devices).
CREATE_RULESET, ADD_RULE, RESTRICT_SELF, GET_VERSION, PATH_BENEATH = 444, 445, 446, 1, 1
WRITE_FILE, READ_FILE, READ_DIR, REMOVE_FILE, MAKE_REG = 1 << 1, 1 << 2, 1 << 3, 1 << 5, 1 << 8
FIRST_RIGHTS, REFER, TRUNCATE, IOCTL_DEV = (1 << 13) - 1, 1 << 13, 1 << 14, 1 << 15

C = ctypes.CDLL(None, use_errno=True)


class Ruleset(ctypes.Structure):
    """struct landlock_ruleset_attr as of ABI 1: the rights denied unless a rule grants them."""

    _fields_ = (("handled", ctypes.c_uint64),)


class PathBeneath(ctypes.Structure):
    """struct landlock_path_beneath_attr: rights on a directory and all below it."""

    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("directory", ctypes.c_int32))


class Filter(ctypes.Structure):
    """struct sock_fprog: the number of instructions of a seccomp filter, and where they are."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def confine(order: dict[str, Any]) -> None:
    """Limits this process for good; raises OSError naming the protection that the machine lacks."""
    _call("parent-death signal", C.prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    if os.getppid() != order["parent"]:
        raise OSError("the parent is gone")
    for name, value in order["limits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))
    os.chdir(order["scratch"])
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    _call("capabilities", C.capset, header, (ctypes.c_uint32 * CAPABILITY_WORDS)())
    _call("no_new_privs", C.prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    restrict_files(order["readable"], order["scratch"])
    instructions = base64.b64decode(order["filter"])
    program = Filter(len(instructions) // FILTER_BYTES, instructions)
    _call("seccomp", C.prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)


def restrict_files(readable: list[str], scratch: str) -> None:
    """Landlock: reads below `readable`, plain files in `scratch`, and no other file at all."""
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
    result = function(*arguments)
    if result < 0:
        raise OSError(f"{protection}: {os.strerror(ctypes.get_errno())}")
    return result


def pack(value: Any) -> Any:
    """A value as JSON, containers tagged by their kind; TypeError for all but plain data."""
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
    """The inverse of `pack`; only builtin types come out, whatever was sent."""
    if not isinstance(value, dict):
        return value
    ((name, items),) = value.items()
    if name == "dict":
        return {unpack(key): unpack(item) for key, item in items}
    return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[name](
        unpack(item) for item in items
    )


def serve(source: str, requests: Any, replies: Any) -> None:
    """Runs an answer once told to, names its functions, and calls them until asked no more."""
    requests.readline()
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
    """Runs tests against the functions of an answer; only reaching their end exits with PASSED."""
    send(requests, "start")
    # An answer that redefines `abs` or `all` must not decide what the tests mean by it.
    offered = [
        name
        for name in json.loads(replies.readline())
        if not name.startswith("__") and not hasattr(builtins, name)
    ]
    names: dict[str, Any] = {name: remote(name, requests, replies) for name in offered}
    exec(compile(source, "tests", "exec"), {**names, "__name__": "tests"})
    os._exit(PASSED)


def remote(name: str, requests: Any, replies: Any) -> Callable:
    """A function that calls the answer's function of that name in the answer's process."""

    def call(*arguments: Any, **keywords: Any) -> Any:
        send(requests, pack([name, arguments, keywords]))
        reply = json.loads(replies.readline())
        if "error" in reply:
            raise error_named(str(reply["error"]))
        return unpack(reply["result"])

    call.__name__ = name
    return call


def error_named(name: str) -> Exception:
    """The builtin exception of that name; RuntimeError for StopIteration, which would end loops."""
    kind = getattr(builtins, name, None)
    if isinstance(kind, type) and issubclass(kind, Exception) and "Iteration" not in name:
        return kind()
    return RuntimeError(name)


def send(file: Any, message: Any) -> None:
    """One line of JSON."""
    file.write(json.dumps(message) + "\n")
    file.flush()


def main() -> None:
    """Reads the order from standard input, says so once confined, and runs the program."""
    order, status = json.load(sys.stdin), int(sys.argv[1])
    requests, replies = (os.fdopen(handle, mode) for handle, mode in order["channels"])
    sys.set_int_max_str_digits(0)
    sys.setrecursionlimit(RECURSION)
    try:
        confine(order)
    except OSError as error:
        os.write(status, str(error).encode())
        sys.exit(1)
    os.write(status, b"ready")
    os.close(status)
    {"serve": serve, "test": test}[order["role"]](order["source"], requests, replies)


if __name__ == "__main__":
    main()
