"""The stored hostile cases that a stage can be given, through the stages' command lines.

The other cases of `test_hostile.py` go to the readers that the stages call.
"""

import json
import os
import resource
import shutil
import time

import pytest

from components import artifact, records
from components.download import stage as download
from components.merge import stage as merge
from components.preflight import stage as preflight
from model import lora, safetensors_files
from tests.components.corpora import prose, write_jsonl
from tests.components.forked import CONTEXT
from tests.components.test_refusals import arguments, attempt
from tests.faults.hostile import MEMORY, SECONDS, stored

SHORT = 20  # rows of each part of a dataset


class Case:
    """A folder with copies of the inputs, and the command line that reads them."""

    def __init__(self, folder, downloaded, adapted):
        self.folder, self.out = folder, folder / "out"
        shutil.copytree(downloaded / "model", folder / "base")
        shutil.copytree(downloaded / "dataset", folder / "dataset")
        shutil.copytree(adapted / "trained", folder / "trained")

    def download(self, **config):
        """A base model and a dataset from elsewhere are no artifacts: they have no records."""
        for name in ("base", "dataset"):
            (self.folder / name / artifact.RECORD).unlink()
        rows = [{"text": prose(60, seed)} for seed in range(20)]
        text = write_jsonl(self.folder / "prose.jsonl", rows)
        config = {"model": str(self.folder / "base"), "pretrain": [{"location": text}], **config}
        config["sample"] = {"min_tokens": 1, "long_share": 0}
        outputs = [f"--{name}={self.out / name}" for name in ("model", "dataset", "metrics")]
        return download.run, ["--config", json.dumps(config), *outputs]

    def merge(self, *more):
        inputs = [f"--{name}={self.folder / name}" for name in ("base", "trained")]
        outputs = [f"--{name}={self.out / name}" for name in ("model", "metrics")]
        return merge.run, [*inputs, *outputs, *more]


def configuration(case, content):
    return preflight.run, arguments("preflight", case.folder, json.dumps(content))


def in_the_base(name):
    """The base's own file with the fields of the case, or the case itself if it is no object."""

    def change(case, content):
        file = case.folder / "base" / name
        if isinstance(content, dict) and file.exists():
            content = {**json.loads(file.read_text()), **content}
        file.write_text(json.dumps(content))
        return case.download()

    return change


def no_file(case, content):
    """What is there in the place of a file of the base: [its name, what]."""
    name, kind = content
    file = case.folder / "base" / name
    file.unlink(missing_ok=True)
    NO_FILES[kind](file)
    return case.download()


NO_FILES = {
    "pipe": os.mkfifo,
    "folder": os.mkdir,
    "device": lambda file: file.symlink_to("/dev/zero"),
    "loop": lambda file: file.symlink_to(file),
    "nowhere": lambda file: file.symlink_to("/nowhere/at/all"),
    "stranger": lambda file: file.symlink_to("/etc/passwd"),
    "terabyte": lambda file: (file.touch(), os.truncate(file, 1 << 40)),
    "deep": lambda file: file.write_text("[" * 100_000),
    "no text": lambda file: file.write_bytes(b"\xff\xfe"),
    "empty": lambda file: file.touch(),
}


def header(case, content):
    (case.folder / "base" / safetensors_files.SINGLE).write_bytes(content.encode("latin-1"))
    return case.download()


def rows(case, content):
    """The first row of a part of a complete dataset."""
    parts = content if isinstance(content, dict) else {"sft": content}
    for file in (case.folder / "dataset").glob("*.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()[:SHORT]]
        write_jsonl(file, [parts.get(file.stem, lines[0]), *lines[1:]])
    return case.download(dataset=str(case.folder / "dataset"), pretrain=[])


def adapter(case, content):
    """The record lists the file as it is now: a stranger made both."""
    folder = case.folder / "trained"
    (folder / lora.CONFIG).write_text(json.dumps(content))
    record = json.loads((folder / artifact.RECORD).read_text())
    facts = {"sha256": artifact.checksum(folder / lora.CONFIG)}
    record["files"][lora.CONFIG] = {**facts, "bytes": (folder / lora.CONFIG).stat().st_size}
    (folder / artifact.RECORD).write_bytes(records.dump(records.sealed(record)))
    return case.merge()


def executor(case, content):
    return case.merge("--executor-input", json.dumps(content))


def record(case, content):
    file = case.folder / "base" / artifact.RECORD
    if isinstance(content, dict):
        content = {**json.loads(file.read_text()), **content}
    file.write_bytes(records.dump(content))
    return case.merge()


COMMANDS = {
    "configuration": configuration,
    "config": in_the_base("config.json"),
    "header": header,
    "index": in_the_base(safetensors_files.INDEX),
    "tokenizer": in_the_base("tokenizer.json"),
    "settings": in_the_base("tokenizer_config.json"),
    "no_file": no_file,
    "row": rows,
    "adapter": adapter,
    "executor": executor,
    "record": record,
}


def attempt_all(root, kind, downloaded, adapted):
    """The cases of a kind one after the other; writes what came of each."""
    os.chdir(root)
    with (root / "results").open("w") as file:
        for number, content in enumerate(stored(kind)):
            (root / str(number)).mkdir()
            case = Case(root / str(number), downloaded, adapted)
            run, words = COMMANDS[kind](case, content)
            began = time.process_time()
            outcome = attempt(run, words)
            outcome |= {"seconds": time.process_time() - began, "case": json.dumps(content)[:200]}
            outcome["records"] = [str(path) for path in case.out.rglob(artifact.RECORD)]
            outcome["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            file.write(json.dumps(outcome) + "\n")


@pytest.mark.parametrize("kind", COMMANDS)
def test_the_stored_cases(tmp_path, downloaded, adapted, kind):
    process = CONTEXT.Process(target=attempt_all, args=(tmp_path, kind, downloaded, adapted))
    process.start()
    process.join(timeout=300)
    assert process.exitcode == 0
    outcomes = [json.loads(line) for line in (tmp_path / "results").read_text().splitlines()]
    assert len(outcomes) == len(stored(kind))
    wrong = [outcome for outcome in outcomes if not is_accepted(outcome) and not is_line(outcome)]
    assert not wrong, "\n".join(map(str, wrong))
    assert all(outcome["seconds"] < SECONDS for outcome in outcomes)
    assert outcomes[-1]["peak"] < 2 * MEMORY  # torch and all the cases of a kind in one process


def is_accepted(outcome):
    return outcome["code"] == 0 and not any("Traceback" in line for line in outcome["lines"])


def is_line(outcome):
    lines = outcome["lines"]
    is_one = len(lines) == 1 and lines[0].startswith("components.") and ": error: " in lines[0]
    return outcome["code"] == 2 and is_one and not outcome["records"]
