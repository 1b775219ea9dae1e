"""Every command of README.md is run, or where that takes too much, parsed by its own command line.

What needs an hour, a cluster, a GPU, Docker or the network gets a flag that no program knows: that
flag must be the only complaint. `make` says which program it would start. A recipe's settings pass
the preflight stage as well. A command of a new kind fails here until it has a rule.
"""

import dataclasses
import importlib.util
import itertools
import json
import os
import re
import runpy
import shlex
import subprocess
import sys

import pytest

from pipelines.overrides import choose
from tests.conftest import ROOT

PAGE = (ROOT / "README.md").read_text()
FLAG = "--no-such-flag"
RECIPES = ("pipeline-run", "pipeline-compile", "pipelines.submit")  # what reads a recipe
ELSEWHERE = {  # commands that are no program of ours, and the file that runs or tests them
    "make test": ".ci/run",
    "make gpu-test": "tests/gpu/test_device.py",
    "make kind-up kind-test kind-down": "tests/kind/test_cluster.py",
}
ROW = re.compile(r"^\| `(\w+\.jsonl)` \|.*\| `(\{.*\})` \|$", re.MULTILINE)


def commands():
    """The words of every command in the page's shell blocks."""
    for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        text = ""
        for line in block.replace("\\\n", " ").splitlines():
            text += line + "\n"
            try:
                words = shlex.split(text, comments=True)
            except ValueError:
                continue  # the next line goes on with a quotation
            yield words
            text = ""
        assert not text, f"a quotation does not end: {text}"


COMMANDS = {shlex.join(words): words for words in commands() if words}
SETUPS = [words for words in COMMANDS.values() if words[:2] == ["make", "setup"]]
PROGRAMS = [
    words for text, words in COMMANDS.items() if text not in ELSEWHERE and words not in SETUPS
]


def one_line(words):
    """A command on one line."""
    return " ".join(shlex.join(words).split())


def make(*arguments):
    """The commands that `make` would run."""
    done = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", *arguments],
        cwd=ROOT,
        env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]


def program(words):
    """The module that a command runs, and its arguments."""
    if words[0] == "make":
        (words,) = make("--old-file", ".venv/ready", *words[1:])
    assert words[:2] == [".venv/bin/python", "-m"], f"no rule for {shlex.join(words)}"
    module, *arguments = words[2:]
    assert importlib.util.find_spec(module), f"{module}: no such program"
    return module, arguments


def recipe(module, arguments):
    """The recipe that a program of pipelines/ runs, with its settings."""
    pairs = [*itertools.pairwise(arguments)]
    settings = [value for flag, value in pairs if flag == "--set"]
    name = dict(pairs)["--recipe"] if module == "pipelines.local" else arguments[0]
    return choose(name, preference=dict(pairs).get("--preference", "grpo"), settings=settings)


@pytest.fixture
def outcome(monkeypatch, capsys):
    """Exit code and last line of a program that is started in this process."""

    def start(module, *arguments):
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        monkeypatch.delitem(sys.modules, module, raising=False)
        code = 0
        try:
            runpy.run_module(module, run_name="__main__")
        except SystemExit as end:
            code = end.code
        return code, [*capsys.readouterr().err.splitlines(), ""][-2:][0]

    return start


@pytest.mark.parametrize("words", PROGRAMS, ids=one_line)
def test_program_knows_every_argument(outcome, words):
    module, arguments = program(words)
    code, line = outcome(module, FLAG, *arguments)
    assert code == 2 and re.search(rf"unrecognized arguments: {FLAG}(;|$)", line), line


def test_recipes_pass_preflight(outcome):
    """The settings of every recipe on the page, as the pipeline's first stage sees them."""
    recipes = [recipe(*program(words)) for words in PROGRAMS if {*words} & {*RECIPES}]
    assert {each.preference for each in recipes} == {"grpo"} and len(recipes) == 7
    for each in recipes:
        flags = []
        for name, value in dataclasses.asdict(each).items():
            text = value if isinstance(value, str) else json.dumps(value)
            flags += [f"--{name.replace('_', '-')}", text]
        assert outcome("components.preflight", *flags) == (0, "")


@pytest.mark.parametrize("text", ELSEWHERE)
def test_command_is_run_elsewhere(text):
    assert text in COMMANDS
    assert (ROOT / ELSEWHERE[text]).is_file()
    assert make(*shlex.split(text)[1:])


def test_stage_of_a_container(outcome):
    """What `make component-run` hands on to a stage is that stage's own command line."""
    stages = [words for words in PROGRAMS if words[:2] == ["make", "component-run"]]
    assert stages
    for words in stages:
        _, arguments = program(words)
        stage, *rest = arguments[arguments.index("--network") + 2 :]
        assert outcome(f"components.{stage}", *rest)[0] == 0


def test_setup_takes_the_index():
    (words,) = SETUPS
    index = words[-1].partition("=")[2]
    assert any(index in shlex.join(line) for line in make("--always-make", *words[1:]))


def test_own_data(tmp_path):
    """The rows of the page's table are read by the command below it, and none is dropped."""
    rows = dict(ROW.findall(PAGE))
    assert len(rows) == 5
    (tmp_path / "mydata").mkdir()
    for name, row in rows.items():
        (tmp_path / "mydata" / name).write_text(row + "\n")
    (words,) = (words for words in PROGRAMS if "components.download" in words)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *words[1:]], cwd=tmp_path, env=environment, check=True)
    report = (tmp_path / "out" / "dataset" / "report.md").read_text()
    assert report.count("1 of 1 kept") == 5
