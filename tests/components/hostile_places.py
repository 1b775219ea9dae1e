"""Inputs and outputs in which something else lies than a stage puts there: for `test_refusals`."""

import os
import socket
import subprocess

from components.artifact import CLAIM, RECORD

DEEP = b"[" * 100_000
CLAIMS = {
    "deep": DEEP,
    "a list": b"[]",
    "no text": b"\xff\xfe",
    "places are a number": b'{"files": 3, "stage": [], "output": {}}',
    "places are no texts": b'{"files": [1, null, {}], "system": 7, "pid": "a\\nb"}',
}
NESTED = "nested"
LEVELS = 1200  # of folders, more than Python's functions may be nested


def claimed(content):
    """An output with the claim of nobody, and a file: a person's own, in the end."""

    def change(root):
        (root / "claimed").mkdir()
        (root / "claimed" / CLAIM).write_bytes(content)
        (root / "claimed" / "mine").write_text("precious")
        return root / "claimed"

    return change


def claim_that_is(make):
    """An output whose claim is something other than a file."""

    def change(root):
        (root / "claimed").mkdir()
        make(root / "claimed" / CLAIM)
        return root / "claimed"

    return change


def linked(path):
    """A claim that leads to a person's file, which is checked in the end."""
    (path.parent.parent / "mine").write_text("precious")
    path.symlink_to(path.parent.parent / "mine")


def listener(path):
    """A socket; its name may be longer than the system lets an address be."""
    own = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{own}/{path.name}")
    os.close(own)


def dangling(root):
    """A link to nowhere."""
    (root / "link").symlink_to(root / "nowhere" / "below")
    return root / "link"


def not_empty(root):
    """A person's own folder."""
    (root / "own").mkdir()
    (root / "own" / "mine").write_text("precious")
    return root / "own"


def remove_nested(root):
    """Removes the folders of `nest`, which are too many for Python's own functions."""
    for path in root.glob(f"*/bad/{NESTED}"):
        subprocess.run(["rm", "-r", str(path)], check=True)


def made_at(make):
    """A path at which something other than a folder is."""

    def change(root):
        make(root / "odd")
        return root / "odd"

    return change


OUTPUTS = {
    **{f"a claim that is {name}": claimed(content) for name, content in CLAIMS.items()},
    "a claim that is a pipe": claim_that_is(os.mkfifo),
    "a claim that is a folder": claim_that_is(os.mkdir),
    "a claim that is a link": claim_that_is(linked),
    "a claim that is a socket": claim_that_is(listener),
    "a link to nowhere": dangling,
    "a folder with a file": not_empty,
    "a pipe": made_at(os.mkfifo),
    "a socket": made_at(listener),
    "the null device": lambda root: "/dev/null",
    "the full device": lambda root: "/dev/full",
    "the root": lambda root: "/",
    "its own folder": lambda root: root,
}


def contents(made):
    """Inputs that `made` makes, in which something is amiss: by name."""

    def holds(change):
        def place(root):
            change(path := made(root / "bad"))
            return path

        return place

    return {
        "a pipe in it": holds(lambda path: os.mkfifo(path / "pipe")),
        "a link for a file": holds(lambda path: replace(path / "file", link_to("/dev/zero"))),
        "a folder for a file": holds(lambda path: replace(path / "file", os.mkdir)),
        "a file of a terabyte": holds(lambda path: os.truncate(path / "file", 1 << 40)),
        "a record of a terabyte": holds(lambda path: os.truncate(path / RECORD, 1 << 40)),
        "a record that is a device": holds(
            lambda path: replace(path / RECORD, link_to("/dev/zero"))
        ),
        "a file that may not be read": holds(lambda path: (path / "file").chmod(0)),
        "a record that may not be read": holds(lambda path: (path / RECORD).chmod(0)),
        "a folder that may not be read": holds(lambda path: (path / "folder").mkdir(mode=0)),
        "a thousand folders": holds(nest),
        "a name of two lines": holds(lambda path: (path / "a\nerror: b").write_text("")),
        "a name that is no text": holds(lambda path: (path / os.fsdecode(b"\xff")).write_text("")),
        "a pipe": made_at(os.mkfifo),
        "a socket": made_at(listener),
        "a link to nowhere": dangling,
        "a folder of a person": not_empty,
        "the null device": lambda root: "/dev/null",
    }


def replace(path, make):
    """Something else in the place of a file."""
    path.unlink()
    make(path)


def link_to(target):
    """Makes a link."""
    return lambda path: path.symlink_to(target)


def nest(path):
    """Folders in folders; their names are longer together than a path may be."""
    here = os.getcwd()
    os.chdir(path)
    for _ in range(LEVELS):
        os.mkdir(NESTED)
        os.chdir(NESTED)
    os.chdir(here)
