"""Every fault of the input that a command line can be given, for every stage, as one table.

Each ends the command with one line and exit code 1 or 2, within seconds, and leaves no record. A
stage's faults are tried in one process, by `components.cli.main`, which is all that
`python -m components.STAGE` does.
"""

import ctypes
import importlib
import inspect
import itertools
import json
import os
import time
import typing
from pathlib import Path

import pytest

from components import artifact, cli, records
from tests.components import hostile_places
from tests.components.forked import CONTEXT

STAGES = ("download", "pretrain", "merge", "sft", "dpo", "grpo", "evaluate", "release", "report")
STAGES += ("preflight", "trainjob")
SECONDS = 10  # of processor time, for one fault
DEEP = "[" * 100_000
LONG, LONGER = "x" * 300, "/".join(["x" * 200] * 30)
CONFIGS = {
    "not JSON": "{",
    "a list": "[1]",
    "null": "null",
    "a number": "7",
    "deep": DEEP,
    "deep objects": '{"a":' * 50_000,
    "an unknown field": '{"unknown_field": 1}',
    "a long field": json.dumps({"k" * 100_000: 1}),
    "half a character": '{"\\ud800": 1}',
    "too many digits": '{"seed": 1' + "0" * 9000 + "}",
    "a huge number": '{"seed": 1' + "0" * 4000 + "}",
    "not a number": '{"seed": NaN, "accuracy": NaN, "traces": NaN, "claim": NaN, "x": 1}',
    "a list in its place": '{"seed": [[[1]]], "accuracy": [1], "traces": [1], "x": 1}',
}
RECORDS = {
    "a list": b"[]",
    "empty": b"",
    "null": b"null",
    "a text": b'"x"',
    "deep": DEEP.encode(),
    "deep within": b'{"format": 2, "config": ' + b"[" * 800 + b"]" * 800 + b"}",
    "no text": b"\xff\xfe\x00",
    "another format": b'{"format": "2"}',
    "many digits": b'{"format": 1' + b"0" * 9000 + b"}",
    "no fields": b'{"format": 2}',
    "files are a list": b'{"format": 2, "files": []}',
}
TASKS = ["{", "[]", "null", DEEP, "{}", '{"outputs": 1}', '{"outputs": {"artifacts": []}}']
TASKS += ['{"outputs": {"artifacts": {}, "outputFile": 1}}']
TASKS += ['{"outputs": {"artifacts": {}, "outputFile": "a\\u0000b"}}']


def made(path, output="model"):
    """A complete artifact of one file."""
    path.mkdir(parents=True)
    (path / "file").write_text("x")
    own = {"stage": "download", "output": output, "fingerprint": "", "config": {}, "summary": {}}
    facts = {"sha256": artifact.checksum(path / "file"), "bytes": 1}
    empty = {"config": {}, "inputs": {}, "summary": {}, "packages": {}, "python": "3"}
    unknown = {"git_commit": None, "image": None, "created": "today"}
    record = {"format": records.FORMAT, "stage": "download", "output": output, **empty, **unknown}
    record |= {"files": {"file": facts}, "lineage": [own]}
    (path / artifact.RECORD).write_bytes(records.dump(records.sealed(record)))
    return path


def recorded(content):
    def change(root):
        (made(root / "bad") / artifact.RECORD).write_bytes(content)
        return root / "bad"

    return change


def replaced(replace):
    """An artifact whose record is something other than a file."""

    def change(root):
        record = made(root / "bad") / artifact.RECORD
        record.unlink()
        replace(record)
        return root / "bad"

    return change


def loop(root):
    (root / "loop").symlink_to(root / "loop")
    return root / "loop"


def plain_file(root):
    (root / "plain").write_text("precious")
    return root / "plain"


def closed(root):
    made(root / "closed").chmod(0)
    return root / "closed"


def below_closed(root):
    (root / "parent").mkdir()
    (root / "parent").chmod(0o500)
    return root / "parent" / "output"


PATHS = {
    "a name too long": lambda root: root / LONG,
    "a path too long": lambda root: root / LONGER,
    "below a file": lambda root: plain_file(root) / "below",
    "links in a circle": loop,
    "a NUL": lambda root: f"{root}/a\0b",
    "of the system": lambda root: "/proc/self/status/x",
}
INPUTS = {
    **{f"a record that is {name}": recorded(content) for name, content in RECORDS.items()},
    "a record that is a pipe": replaced(os.mkfifo),
    "a record that is a folder": replaced(Path.mkdir),
    "a record that is a link": replaced(lambda path: path.symlink_to("file")),
    "no record": replaced(lambda path: None),
    "missing": lambda root: root / "nowhere",
    "a file": plain_file,
    "a NUL in UTF-8": lambda root: f"{root}/\udc80",
    "no permission": closed,
    **hostile_places.contents(made),
    **PATHS,
}
OUTPUTS = {
    **hostile_places.OUTPUTS,
    **PATHS,
    "a file": plain_file,
    "a read-only parent": below_closed,
}
FILES = {**PATHS, "a file": plain_file, "a folder": lambda root: root}


TWICE = ("", "/below", "/..")
"""What follows the path of another input or output in that of an output."""


def arguments(stage, root, config="{}", **places):
    """A complete command line, with some places replaced."""
    words = []
    for name, hint in roles(stage).items():
        if hint == artifact.Input:
            words += [flag(name), str(places.get(name) or made(root / f"in-{name}"))]
        elif hint in (artifact.Output, *cli.FILES):
            words += [flag(name), str(places.get(name) or root / f"out-{name}")]
        elif typing.get_origin(hint) is not typing.Literal and not cli._is_path(hint):
            words += [flag(name), config]
    return words


def flag(name):
    return f"--{name.replace('_', '-')}"


def roles(stage):
    run = importlib.import_module(f"components.{stage}.stage").run
    hints = typing.get_type_hints(run, include_extras=True)
    return {name: hints[name] for name in inspect.signature(run).parameters}


def faults(stage, root):
    """The name and the command line of each fault, in a folder of its own."""
    number = iter(range(10_000))

    def fresh():
        folder = root / str(next(number))
        folder.mkdir()
        return folder

    for name, text in CONFIGS.items():
        yield f"configuration: {name}", arguments(stage, fresh(), text)
    for kind, changes in ((artifact.Input, INPUTS), (artifact.Output, OUTPUTS)):
        names = [name for name, hint in roles(stage).items() if hint == kind]
        for name, change in changes.items() if names else ():
            folder = fresh()
            yield f"{names[0]}: {name}", arguments(stage, folder, **{names[0]: change(folder)})
    names = [name for name, hint in roles(stage).items() if hint in cli.FILES]
    for name, change in FILES.items() if names else ():
        folder = fresh()
        yield f"{names[0]}: {name}", arguments(stage, folder, **{names[0]: change(folder)})
    outputs = [name for name, hint in roles(stage).items() if hint == artifact.Output]
    others = [name for name, hint in roles(stage).items() if hint == artifact.Input]
    for other, rest in itertools.product([*others[:1], *outputs[1:2]], TWICE if outputs else ()):
        folder = fresh()
        words = arguments(stage, folder)
        place = words[words.index(flag(other)) + 1]
        words[words.index(flag(outputs[0])) + 1] = place + rest
        yield f"{outputs[0]}: {other}{rest}", words
    for text in TASKS:
        yield f"executor input: {text:.60}", [*arguments(stage, fresh()), "--executor-input", text]


def attempt_all(stage, root, results):
    """Tries every fault as a user without rights, and writes what came of it: JSON lines."""
    libc = ctypes.CDLL(None, use_errno=True)
    made_of = (ctypes.c_uint32 * 2)(0x20080522, 0)  # root, too, is denied what others are
    run = importlib.import_module(f"components.{stage}.stage").run
    with open(results, "w") as file:
        for name, words in faults(stage, Path(root)):
            libc.capset(made_of, (ctypes.c_uint32 * 6)())
            began = time.process_time()
            outcome = attempt(run, words)
            outcome |= {"name": name, "seconds": time.process_time() - began}
            file.write(json.dumps(outcome) + "\n")


def attempt(run, words):
    """The exit code and the lines of a command, or what it raised."""
    with open("errors", "w+") as errors, open(os.devnull, "w") as nothing:
        os.dup2(errors.fileno(), 2)
        os.dup2(nothing.fileno(), 1)
        try:
            cli.main(run, words)
            code = 0
        except SystemExit as end:
            code = end.code
        except BaseException as error:
            code = repr(error)[:500]
        errors.seek(0)
        return {"code": code, "lines": errors.read().splitlines()}


@pytest.mark.parametrize("stage", STAGES)
def test_every_fault_is_one_line(tmp_path, stage):
    root, results = tmp_path / "places", tmp_path / "results"
    root.mkdir()
    process = CONTEXT.Process(target=in_folder, args=(str(tmp_path), stage, root, results))
    process.start()
    process.join(timeout=600)
    assert process.exitcode == 0
    hostile_places.remove_nested(root)
    outcomes = [json.loads(line) for line in results.read_text().splitlines()]
    assert len(outcomes) >= len(CONFIGS) + len(TASKS)
    wrong = [outcome for outcome in outcomes if not is_one_line(stage, outcome)]
    assert not wrong, "\n".join(map(str, wrong))
    assert not [file for file in root.glob(f"*/out-*/{artifact.RECORD}")]
    own = [*root.glob("*/mine"), *root.glob("*/*/mine"), *root.glob("*/plain")]
    assert {file.read_text() for file in own} <= {"precious"}


def in_folder(folder, stage, root, results):
    os.chdir(folder)
    attempt_all(stage, root, results)


def is_one_line(stage, outcome):
    name, start = outcome["name"], f"components.{stage}: error: "
    # Where the configuration is complete without a field, what is left is a stage that succeeds.
    is_fine = outcome["code"] == 0 and name == "release_accuracy: a NUL in UTF-8"
    lines = outcome["lines"]
    is_line = len(lines) == 1 and lines[0].startswith(start) and len(lines[0]) < 5000
    return is_fine or (outcome["code"] in (1, 2) and is_line and outcome["seconds"] < SECONDS)
