"""Two evaluations side by side through the command line: noise is called noise."""

import json
import subprocess
import sys

import pytest

from components import artifact
from components.evaluate.compare import compare
from components.evaluate.config import EvaluateConfig
from tests.conftest import ROOT


def evaluation(path, rows, output="evaluation"):
    """An evaluation with these samples: (task, prompt, correct)."""
    path.mkdir()
    names = ("task", "prompt", "correct")
    lines = [json.dumps({**dict(zip(names, row, strict=True)), "answer": "1"}) for row in rows]
    (path / "samples.jsonl").write_text("".join(f"{line}\n" for line in lines))
    artifact.record(
        {output: path}, stage="evaluate", config=EvaluateConfig(), inputs={}, summary={}
    )
    return path


def rows(task, right, count=100):
    return [(task, f"problem {number}", number in right) for number in range(count)]


def command(*paths):
    line = [sys.executable, "-m", "components.evaluate.compare", *map(str, paths)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)


def test_noise_and_difference(tmp_path):
    first = rows("sums", range(50)) + rows("maths", range(50))
    second = rows("sums", range(80)) + rows("maths", range(3, 55)) + rows("more", range(5))
    done = command(evaluation(tmp_path / "a", first), evaluation(tmp_path / "b", second))
    assert done.returncode == 0, done.stderr
    _, _, sums, maths = done.stdout.strip().splitlines()
    assert sums.startswith("| sums | 100 | 50.0 | 80.0 | +30.0 |") and sums.endswith("| better |")
    assert maths.startswith("| maths | 100 | 50.0 | 52.0 | +2.0 |") and maths.endswith("| noise |")


def test_the_interval_is_paired(tmp_path):
    """One of 400 problems is lost: far less than what two separate errors would allow to see."""
    one = evaluation(tmp_path / "a", rows("t", range(200), 400))
    other = evaluation(tmp_path / "b", rows("t", range(12, 200), 400))
    (found,) = compare(one, other)
    assert found.difference == pytest.approx(-0.03)
    # The standard error of a mean of -1 in 12 of 400: sqrt(0.03 * 0.97 / 400) = 0.0085.
    assert found.low == pytest.approx(-0.03 - 1.96 * 0.0085, abs=0.004)
    assert found.high == pytest.approx(-0.03 + 1.96 * 0.0085, abs=0.004)
    assert not found.is_noise and compare(one, other) == [found]


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (rows("other", range(5)), "allowed: evaluations that share a task"),
        (rows("t", range(5), 99), "100 and 99 problems, 99 of them in both"),
    ],
)
def test_what_cannot_be_compared(tmp_path, second, words):
    one = evaluation(tmp_path / "a", rows("t", range(5)))
    done = command(one, evaluation(tmp_path / "b", second))
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 2 and words in line and not done.stdout


def test_no_evaluation(tmp_path):
    one = evaluation(tmp_path / "a", rows("t", range(5)))
    for other, words in (
        (tmp_path / "none", "no such directory"),
        (evaluation(tmp_path / "m", [], output="metrics"), "allowed: an evaluation"),
    ):
        done = command(one, other)
        assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
