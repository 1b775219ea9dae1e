"""lm_eval's own command line with a model of ours, on tasks in local files, without a network."""

import json
import os
import re
import subprocess
import sys

import pytest

from components.evaluate.lm_eval import LLaDAModel
from tests.conftest import ROOT

GENERATE = """\
task: capitals
dataset_path: json
dataset_kwargs: {{data_files: {{test: {0}, train: {0}}}}}
test_split: test
fewshot_split: train
output_type: generate_until
doc_to_text: "Capital of {{{{country}}}}:"
doc_to_target: "{{{{city}}}}"
num_fewshot: 1
generation_kwargs: {{until: ["\\n"]}}
metric_list: [{{metric: exact_match}}]
"""
CHOOSE = """\
task: larger
dataset_path: json
dataset_kwargs: {{data_files: {{test: {0}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{country}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{label}}}}"
metric_list: [{{metric: acc}}]
"""
ROWS = [
    {"country": name, "city": city, "choices": ["small", "large", "a"], "label": n % 3}
    for n, (name, city) in enumerate(
        [("France", "Paris"), ("Chad", "N'Djamena"), ("Peru", "Lima"), ("Iran", "Tehran")]
    )
]


@pytest.fixture
def tasks(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name, text in (("capitals", GENERATE), ("larger", CHOOSE)):
        (folder / f"{name}.yaml").write_text(text.format(rows))
    return folder


def lm_eval(tmp_path, tasks, name, *options, processes=1, **arguments):
    """The finished process, and what lm_eval has written."""
    given = ",".join(f"{key}={value}" for key, value in arguments.items())
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    command = [
        *(sys.executable, "-m"),
        *(torchrun if processes > 1 else ()),
        *("components.evaluate.lm_eval", "--model", "llada", "--model_args", given),
        *("--tasks", "capitals,larger", "--include_path", str(tasks), "--batch_size", "2"),
        *("--output_path", str(tmp_path / name), "--log_samples", *options),
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=500
    )
    results = sorted((tmp_path / name).rglob("results_*.json"))
    samples = sorted((tmp_path / name).rglob("samples_*.jsonl"))
    texts = [sample["resps"] for file in samples for sample in map(json.loads, file.open())]
    return done, json.loads(results[0].read_text()) if results else None, texts


SETTINGS = {"gen_length": 8, "block_length": 4, "samples": 8, "choices": "likelihood"}


def test_a_model_is_measured_as_any_other(tmp_path, tasks, downloaded, adapted):
    path = downloaded / "model"
    done, results, texts = lm_eval(tmp_path, tasks, "base", path=path, **SETTINGS)
    assert done.returncode == 0, done.stderr
    assert results["results"]["capitals"]["alias"] == "capitals"
    assert results["n-shot"]["capitals"] == 1 and len(texts) == 2 * len(ROWS)
    assert 0 <= results["results"]["larger"]["acc,none"] <= 1
    done, _, pair = lm_eval(tmp_path, tasks, "pair", path=path, **SETTINGS, processes=2)
    assert done.returncode == 0, done.stderr
    assert [text for text in pair if isinstance(text[0][0], str)] == [
        text for text in texts if isinstance(text[0][0], str)
    ]
    done, _, chat = lm_eval(
        *(tmp_path, tasks, "chat", "--apply_chat_template"),
        path=path,
        adapter=adapted / "trained",
        **SETTINGS,
    )
    assert done.returncode == 0, done.stderr
    assert len(chat) == len(texts) and chat != texts


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "path='', allowed: the directory of a model"),
        ({"path": "nowhere"}, "nowhere"),
        ({"path": "MODEL", "temperature": -1}, "temperature=-1"),
        (
            {"path": "MODEL", "limit": 3},
            "limit=3, allowed: an option of lm_eval's own command line",
        ),
        ({"path": "MODEL", "adapter": "nowhere"}, "adapter='nowhere'"),
        ({"path": "MODEL", "batch_size": "auto"}, "batch_size='auto', allowed: a number"),
        ({"path": "MODEL", "deferred": "eos+end"}, "deferred[1]='end', allowed: eos, eot"),
    ],
)
def test_arguments_that_cannot_be_are_refused(downloaded, arguments, words):
    if arguments.get("path") == "MODEL":
        arguments = {**arguments, "path": str(downloaded / "model")}
    with pytest.raises((ValueError, OSError), match=re.escape(words)):
        LLaDAModel(**arguments)


def test_a_refusal_is_one_line(tmp_path, tasks, downloaded):
    path = downloaded / "model"
    done, results, _ = lm_eval(tmp_path, tasks, "bad", path=path, gen_lenth=4)
    assert done.returncode == 2 and results is None
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("lm_eval: error: ") and "gen_lenth (did you mean gen_length?)" in line
    assert "Traceback" not in done.stderr
