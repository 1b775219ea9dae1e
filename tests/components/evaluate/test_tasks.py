"""Tasks by name through the command line: three of lm_eval's kinds, made ones, and refusals."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from components import artifact
from components.evaluate import code, tasks
from components.evaluate.compare import compare
from components.evaluate.config import EvaluateConfig
from tests.components.evaluate import task_files
from tests.conftest import ROOT, stage

TASKS = ["small_sums", "small_choice", "small_code"]
SMALL = {"gen_length": 8, "block_length": 8, "samples": 8, "cache": "none", "form": "text"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return task_files.write(tmp_path_factory.mktemp("tasks") / "files")


def run(downloaded, root, check=True, **config):
    """The finished process, and results and samples where there are any."""
    done = stage(
        "evaluate",
        {**SMALL, **config},
        check=check,
        model=downloaded / "model",
        dataset=downloaded / "dataset",
        evaluation=root / "evaluation",
        metrics=root / "metrics",
        summary=root / "summary.md",
        page=root / "page.html",
    )
    if done.returncode:
        return done, None, None
    results = json.loads((root / "evaluation" / "results.json").read_text())
    lines = (root / "evaluation" / "samples.jsonl").read_text().split("\n")[:-1]
    return done, results, [json.loads(line) for line in lines]


def closed():
    """The command that gives a process a network of its own, with nothing in it.

    Where the system does not let a user make one, the libraries' own switch has to do.
    """
    command = ["unshare", "--map-root-user", "--net"]
    if shutil.which("unshare") is None:
        return []
    works = subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    return command if works else []


def test_three_kinds_of_tasks_with_the_network_closed(downloaded, files, tmp_path):
    """Generation with worked examples, multiple choice and code, from files in lm_eval's format."""
    config = {**SMALL, "tasks": TASKS, "task_files": [str(files)], "allow_code": True}
    paths = {
        "model": downloaded / "model",
        "dataset": downloaded / "dataset",
        "evaluation": tmp_path / "evaluation",
        "metrics": tmp_path / "metrics",
        "summary": tmp_path / "summary.md",
    }
    flags = [text for name, path in paths.items() for text in (f"--{name}", str(path))]
    command = [sys.executable, "-m", "components.evaluate", "--config", json.dumps(config)]
    done = subprocess.run(
        [*closed(), *command, *flags],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "evaluation" / "results.json").read_text())
    assert list(results["tasks"]) == TASKS and results["task"] == "small_sums"
    metrics = [results["tasks"][name]["metric"] for name in TASKS]
    assert metrics == ["exact_match,strict", "acc_norm,none", "pass@1,programs"]
    assert [results["tasks"][name]["problems"] for name in TASKS] == [3, 2, 1]
    assert results["n-shot"]["small_sums"] == 2
    assert {"acc,none", "acc_norm,none"} < set(results["results"]["small_choice"])
    assert {"device", "processor", "packages", "seed", "config", "throughput"} <= set(results)
    lines = (tmp_path / "evaluation" / "samples.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    assert [sample["task"] for sample in samples] == [*TASKS[:1] * 3, *TASKS[1:2] * 2, TASKS[2]]
    first = samples[0]
    assert first["prompt"].endswith("113 + 135 =") and first["prompt"].count(" =") == 3
    assert first["answer"] == "248" and first["correct"] in (0.0, 1.0)
    assert samples[-1]["solution"][0].startswith("def f(x):\n")
    summary = (tmp_path / "summary.md").read_text()
    assert "| small\\_sums | 0.0% | 0.0 to 0.0 | 3 | exact\\_match,strict |" in summary
    record = artifact.verify(tmp_path / "evaluation")
    assert record["config"]["tasks"] == TASKS
    assert {f"score_{name}" for name in TASKS} <= set(record["summary"])
    assert [row.difference for row in compare(paths["evaluation"], paths["evaluation"])] == [0] * 3


def test_made_tasks_beside_the_test(downloaded, tmp_path):
    names = ["countdown", "sudoku", "sums", "test"]
    short = {"form": "chat", "limit": 3, "traces": 1}
    done, results, samples = run(downloaded, tmp_path, tasks=names, **short)
    assert [sample["task"] for sample in samples] == [name for name in names for _ in range(3)]
    assert results["accuracy"] == results["tasks"]["countdown"]["score"]
    assert "evaluate: sudoku: " in done.stdout
    traces = (tmp_path / "evaluation" / "traces.jsonl").read_text().splitlines()
    assert [json.loads(trace)["task"] for trace in traces] == names
    assert (tmp_path / "page.html").read_text().count("class='trace'") == 4
    figures = json.loads((tmp_path / "metrics" / artifact.METRICS).read_text())
    assert {f"score_{name}" for name in names} <= set(figures)


def test_a_sum_of_the_seed_is_one_of_the_downloads_own_test(downloaded):
    """What the model of that seed was not trained on."""
    made = tasks.suite(EvaluateConfig(tasks=("sums",), limit=20), []).tasks["sums"]
    lines = (downloaded / "dataset" / "test.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines[:20]] == made.test_docs()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"tasks": ["small_sum"]}, "unknown task 'small_sum', allowed: test, countdown, sudoku"),
        ({"tasks": ["small_sum"]}, "the nearest names are small_sums, "),
        ({"tasks": ["small_choice"], "fewshot": 2}, "fewshot=2, allowed: 0 for the task small"),
        ({"tasks": ["small_sums"], "fewshot": 3}, "fewshot=3, allowed: up to 2 for the task"),
        ({"tasks": ["small_code"]}, "task small_code: allow_code=False, allowed: true"),
        ({"tasks": ["small_outside"], "allow_code": True}, "programs by code_eval, which runs in"),
        ({"tasks": ["small_sums"], "gen_length": 120}, "allowed: at most 128 (the context)"),
        ({"tasks": ["small_sums", "small_sums"]}, "tasks[0]='small_sums', allowed: the name"),
        ({"tasks": []}, "tasks=(), allowed: the name of a task"),
        ({"task_files": ["files"]}, "task_files[0]='files', allowed: an absolute path"),
        ({"tasks": ["x"], "task_files": ["/no"]}, "task_files[0]='/no', allowed: a YAML file, or"),
        ({"stop": [""]}, "stop=('',), allowed: texts of one character or more"),
        ({"temperature": -0.5}, "temperature=-0.5, allowed: 0 or more"),
        ({"preset": "llada-base-gsm9k"}, "presets.py; the nearest are llada-base-gsm8k, "),
        ({"steps": 1, "gen_length": 16}, "steps=1, allowed: 1 or more for each of 2 blocks"),
        ({"system": "Think."}, "system='Think.', allowed: null unless form is chat"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_a_line(downloaded, files, tmp_path, config, words):
    settings = {"task_files": [str(files)], **config}
    done, _, _ = run(downloaded, tmp_path, check=False, **settings)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if ": error: " in line]
    assert words in line
    assert not (tmp_path / "evaluation" / artifact.RECORD).exists()
    assert not (tmp_path / "evaluation" / "results.json").exists()


def test_data_that_cannot_be_had(downloaded, files, tmp_path):
    (tmp_path / "files").mkdir()
    text = (files / "small_choice.yaml").read_text().replace("choices.jsonl", "gone.jsonl")
    (tmp_path / "files" / "gone.yaml").write_text(text)
    config = {"tasks": ["small_choice"], "task_files": [str(tmp_path / "files" / "gone.yaml")]}
    done, _, _ = run(downloaded, tmp_path, check=False, **config)
    assert done.returncode == 2
    assert "task small_choice: cannot be loaded: FileNotFoundError" in done.stderr


OWN = "open({mark!r}, 'w').close()\ndef f(*arguments):\n    return arguments[0]\n"
TEMPLATE = "{{{{ cycler.__init__.__globals__.os.system('touch {mark}') }}}}"
OWN_CODE = {
    "a function": ("process_docs: !function own.f", "allow_code=False, allowed: true for own.f of"),
    "a class": ("class: !function own.f", "allow_code=False, allowed: true for own.f of"),
    "data": ("custom_dataset: !function own.f", "allow_code=False, allowed: true for own.f of"),
    "an included file": ("include: more/own.yaml", "allow_code=False, allowed: true for own.f of"),
    "a module": (
        "process_results: !function os.system",
        "allow_code=False, allowed: true for os.s",
    ),
    "a metric": (
        "metric_list: [{{metric: {folder}/own, aggregation: mean, higher_is_better: true}}]",
        "metric='{folder}/own', allowed: metr",
    ),
    "a template": (f'doc_to_text: "{TEMPLATE}"', "SecurityError: access to attribute '__init__'"),
}


@pytest.mark.parametrize("case", OWN_CODE)
def test_a_task_file_runs_no_code_without_consent(files, tmp_path, case):
    """Importing a function's module is enough to run what is in it."""
    line, words = OWN_CODE[case]
    mark, folder = tmp_path / "mark", tmp_path / "files"
    (folder / "more").mkdir(parents=True)
    (folder / "own").mkdir()
    for place in (folder, folder / "more", folder / "own"):
        (place / "own.py").write_text(OWN.format(mark=str(mark)))
    (folder / "more" / "own.yaml").write_text("process_docs: !function own.f\n")
    text = (files / "small_choice.yaml").read_text()  # of two lines of a name the last one counts
    text += line.format(mark=mark, folder=folder)
    (folder / "small_choice.yaml").write_text(text)
    config = EvaluateConfig(tasks=("small_choice",), task_files=(str(folder),))
    with pytest.raises(ValueError, match=re.escape(words.format(folder=folder))):
        tasks.suite(config, [])
    assert not mark.exists()
    if words.startswith("allow_code=False, allowed: true for own"):  # it would have run
        with contextlib.suppress(ValueError):
            tasks.suite(dataclasses.replace(config, allow_code=True), [])
        assert mark.exists()


HOSTILE = """
def f(x):
    import pathlib, os
    pathlib.Path({path!r}).write_text("here")
    os.system("touch {path}")
    return 4
pathlib = __import__("pathlib")
pathlib.Path({path!r}).write_text("here")
"""


def test_a_hostile_program_is_confined(files, tmp_path):
    """As the task itself judges it, through its own metric."""
    config = EvaluateConfig(tasks=("small_code",), task_files=(str(files),), allow_code=True)
    task = tasks.suite(config, []).tasks["small_code"]
    document = task_files.CODE[0]
    path = tmp_path / "escaped"
    right = ["def f(x):\n    return x * 2"]
    assert task.process_results(document, [right]) == {"pass@1": 1.0}
    assert task.process_results(document, [[HOSTILE.format(path=str(path))]]) == {"pass@1": 0.0}
    assert not path.exists()


def test_pass_at_k_is_the_unbiased_estimate():
    right, wrong = "def f():\n    return 1", "def f():\n    return 2"
    shares, verdicts = code.CodeEval().compute(
        references=["assert f() == 1"], predictions=[[right, wrong, wrong]], k=[1, 2, 4]
    )
    assert verdicts == {0: [True, False, False]}
    assert shares == pytest.approx({"pass@1": 1 / 3, "pass@2": 2 / 3})
