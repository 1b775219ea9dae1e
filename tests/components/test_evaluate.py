"""Evaluation through its command line, of a model that has learnt its answers by heart."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from components import artifact
from components.evaluate import forms
from components.rewards import named
from model.tokenizer import load_tokenizer
from tests.components.evaluated import EVALUATE, dataset, evaluate, problem, read
from tests.conftest import ROOT, stage

CODE = "```Python\ndef f(x):\n    return x\n```"
TAUGHT = {
    "{{ 1 + 1 }}": "7",
    "{% if B %}": "x < 5",
    "[C, D]": "[1, 2]",
    "2024-01-01": "2024-01-02",
    "E": "1/2",
    "F": r"\$5",
    "G": CODE,
}
LAYOUT = (
    "<|begin_of_thought|>\n\nt\n\n<|end_of_thought|>\n\n"
    "<|begin_of_solution|>\n\n8\n\n<|end_of_solution|>"
)
SUMS = ("1 + 1 = 0+2 = 2", "2 + 2 = 1+3 = 4", "3 + 3 = 5+1 = 6")
SHAPE = {"d_model": 64, "n_layers": 2, "n_heads": 2, "mlp_hidden_size": 128, "context": 128}
TRAIN = {"steps": 400, "batch_size": 8, "micro_batch_size": 8, "learning_rate": 3e-3}
BY_HEART = {"steps": 900, "objective": {"band": [0.3, 1.0]}}


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [{"location": str(path)}]


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """`base`, which knows three documents, and `model`, which knows the answers by heart."""
    root = tmp_path_factory.mktemp("taught")
    rows = [{"prompt": p, "completion": f"<think>t</think>{a}"} for p, a in TAUGHT.items()]
    rows.append({"prompt": "H", "completion": LAYOUT})
    stage(
        "download",
        {
            "model": "new",
            "made": "sums",
            "shape": {**SHAPE, "vocabulary": 300},
            "sample": {"min_tokens": 1, "long_share": 0, "quality": False},
            "pretrain": lines(root / "pretrain.jsonl", [{"text": text} for text in SUMS]),
            "sft": lines(root / "sft.jsonl", rows),
        },
        **{name: root / name for name in ("model", "dataset", "metrics")},
    )
    train(root, "pretrain", "model", "base", window=32)
    train(root, "sft", "model", "memory", max_length=96, padding="drawn", **BY_HEART)
    return root


def train(root, name, base, out, **config):
    stage(
        name,
        {**TRAIN, "precision": "fp32", **config},
        base=root / base,
        dataset=root / "dataset",
        trained=root / out / "trained",
        metrics=root / out / "metrics",
    )
    stage(
        "merge",
        base=root / base,
        trained=root / out / "trained",
        model=root / out / "model",
        metrics=root / out / "merged",
    )


ROWS = [
    problem("{{ 1 + 1 }}", "7"),
    problem("{% if B %}", "x < 5"),
    problem("[C, D]", "[1, 2]"),
    problem("2024-01-01", "2024-01-02"),
    problem("E", "1/2"),
    problem("F", r"\$5"),
    problem("H", "8"),
    problem("{{ 1 + 1 }}", "7.0", "math"),
    problem("{% if B %}", "5 > x", "math"),
    problem("E", "0.5", "math"),
    problem("F", r"\$5", "math"),
    problem("F", "5", "math"),
    problem("G", "assert f(3) == 3", "code"),
    problem("E", "0.5"),
    problem("{{ 1 + 1 }}", "8.0", "math"),
    problem("G", "assert f(3) == 4", "code"),
]
WRONG = 3  # the last of them


def test_evaluation_judges_as_rewards_do(taught, tmp_path):
    """By each problem's own verifier, on texts that a template or a loader would have changed."""
    _, samples, results = evaluate(tmp_path, taught / "memory" / "model", ROWS)
    assert [row["correct"] for row in samples] == [True] * (len(ROWS) - WRONG) + [False] * WRONG
    for row, given in zip(samples, ROWS, strict=True):
        assert (row["prompt"], row["answer"]) == (given["prompt"], given["answer"])
        assert row["correct"] == bool(named.verified(row["response"], given))
        assert "<|eot_id|>" not in row["response"] and "<|endoftext|>" not in row["response"]
    assert results["correct"] == len(ROWS) - WRONG and results["problems"] == len(ROWS)
    assert results["too_long"] == results["unusable"] == 0
    (trace,) = read(tmp_path, "traces")
    assert trace["correct"] and trace["solution"] == "7"


def test_rewards_of_the_same_answers(taught, tmp_path):
    """GRPO's figures of a model that knows the answers: right and well-formed, every one."""
    given = [row for row in ROWS[:-WRONG] if row["verifier"] != "code"]
    stage(
        "grpo",
        {
            "steps": 1,
            "batch_size": 24,
            "micro_batch_size": 24,
            "group": 2,
            "inner_updates": 1,
            "gen_length": 48,
            "block_length": 48,
            "temperature": 0.01,
            "kl": 0.0,
            "lora": {"rank": 4, "alpha": 8, "dropout": 0.0},
        },
        base=taught / "memory" / "model",
        dataset=dataset(tmp_path / "dataset", given, "problems"),
        trained=tmp_path / "trained",
        metrics=tmp_path / "metrics",
    )
    (figures,) = (tmp_path / "metrics" / artifact.METRICS).read_text().splitlines()
    assert json.loads(figures)["accuracy"] == json.loads(figures)["format"] == 1.0


def test_the_rows_are_those_of_the_artifact(taught, tmp_path):
    """Two data sets, one after the other at the same place with the same size and time."""
    place = tmp_path / "place"
    for answer in "78":
        shutil.rmtree(place, ignore_errors=True)
        dataset(place, [problem("{{ 1 + 1 }}", answer)])
        os.utime(place / "test.jsonl", (1e9, 1e9))
        model = taught / "memory" / "model"
        _, samples, results = evaluate(tmp_path / answer, model, None, place=place)
        assert [row["answer"] for row in samples] == [answer]
        assert results["correct"] == (answer == "7")


def test_nothing_is_left_outside_the_run(taught, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-m", "components.evaluate", "--config", json.dumps(EVALUATE)]
    rows = dataset(tmp_path / "dataset", ROWS[:2])
    paths = {"model": taught / "memory" / "model", "dataset": rows}
    paths |= {name: tmp_path / name for name in ("evaluation", "metrics")}
    for name, path in paths.items():
        command += [f"--{name}", str(path)]
    places = ("HF_HOME", "HF_DATASETS_CACHE", "HF_HUB_CACHE", "XDG_CACHE_HOME")
    kept = {name: value for name, value in os.environ.items() if name not in places}
    environment = {**kept, "HOME": str(home), "TMPDIR": str(home)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert list(home.rglob("*")) == []
    assert not list(tmp_path.rglob("*.arrow"))


def test_a_long_problem_is_counted_as_wrong(taught, tmp_path):
    """It is named before the first answer, and the other answers are kept."""
    rows = [ROWS[0], problem("9" * 200, "7"), ROWS[1]]
    done, samples, results = evaluate(tmp_path, taught / "memory" / "model", rows, traces=3)
    assert [row["correct"] for row in samples] == [True, False, True]
    assert samples[1]["response"] == "" and samples[1]["solution"] is None
    assert (results["problems"], results["correct"], results["too_long"]) == (3, 2, 1)
    assert [trace["prompt"] for trace in read(tmp_path, "traces")] == [
        rows[0]["prompt"],
        rows[2]["prompt"],
    ]
    (line,) = [line for line in done.stdout.splitlines() if "counted as wrong" in line]
    assert "test.jsonl:2: " in line and "+ gen_length=48, allowed: at most 128" in line
    assert artifact.verify(tmp_path / "evaluation")["summary"]["too_long"] == 1


def test_rows_that_nobody_can_judge_are_left_out(taught, tmp_path):
    rows = [
        problem("E", r"\boxed{}", "math"),
        problem("E", "", "exact"),
        problem("9" * 200, "7"),
        ROWS[0],
        problem("E", "1/2", "guess"),
    ]
    done, samples, results = evaluate(tmp_path, taught / "memory" / "model", rows)
    assert [row["correct"] for row in samples] == [False, True]
    assert (results["problems"], results["too_long"], results["unusable"]) == (2, 1, 3)
    assert "test.jsonl:1: left out: answer='\\\\boxed{}', allowed: a mathem" in done.stdout
    assert "test.jsonl:2: left out: answer='', allowed: a text" in done.stdout
    assert (
        "test.jsonl:5: left out: verifier='guess', allowed: exact, math, code, countdown, sudoku"
        in done.stdout
    )
    assert "test.jsonl:3: counted as wrong: prompt of " in done.stdout


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([problem("E", r"\boxed{}", "math")] * 2, ["test.jsonl", "row 1: answer=", "boxed"]),
        ([problem("9" * 200, "7")], ["no problem leaves room", "gen_length=48", "at most 128"]),
    ],
)
def test_a_data_set_without_a_usable_row_is_refused(taught, tmp_path, rows, words):
    done, _, _ = evaluate(tmp_path, taught / "memory" / "model", rows, check=False)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if ": error: " in line]
    for word in words:
        assert word in line
    assert not list((tmp_path / "evaluation").iterdir())


def test_grpo_leaves_out_what_it_cannot_judge(taught, tmp_path):
    """The row is found before step 1, whether or not a rollout would have solved it."""
    rows = [ROWS[0], problem("E", r"\boxed{}", "math"), ROWS[4]]
    config = {"steps": 1, "batch_size": 4, "group": 2, "inner_updates": 1, "gen_length": 16}
    done = stage(
        "grpo",
        {**config, "lora": {"rank": 4, "alpha": 8, "dropout": 0.0}},
        base=taught / "memory" / "model",
        dataset=dataset(tmp_path / "dataset", rows, "problems"),
        trained=tmp_path / "trained",
        metrics=tmp_path / "metrics",
    )
    assert "problems.jsonl:2: left out: answer=" in done.stdout
    summary = artifact.read(tmp_path / "trained")["summary"]
    assert summary["problems"] == 2 and summary["unusable"] == 1


def test_a_base_is_asked_in_the_form_of_its_pretraining(taught, tmp_path):
    """It goes on with a document; its last result is judged. Chats it has never seen."""
    base = taught / "base" / "model"
    tokenizer = load_tokenizer(base)
    documents = [forms.plain(tokenizer, text) for text in SUMS]
    rows = [problem(text[:7], text[-1]) for text in SUMS]
    left = len(documents[0]) + 1 - len(forms.plain(tokenizer, SUMS[0][:7]))  # with EOS
    asked = {"gen_length": left, "block_length": left}
    _, samples, results = evaluate(tmp_path / "text", base, rows, form="text", **asked)
    assert [row["response"] for row in samples] == [text[7:] for text in SUMS]
    assert [row["solution"] for row in samples] == ["2", "4", "6"]
    assert results["accuracy"] == 1.0
    (trace,) = read(tmp_path / "text", "traces")
    assert trace["correct"] and trace["solution"] == "2"
    _, _, results = evaluate(tmp_path / "chat", base, rows, form="chat", **asked)
    assert results["accuracy"] == 0.0
