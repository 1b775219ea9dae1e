"""The real pipeline learns: a shortened run's figures stay within a stored band.

The band is wide enough for other processors and too narrow for a loss, a sampler or a reward that
no longer teaches. `docs/results.md` has the figures of whole runs.
"""

import json

import pytest

from tests.conftest import ROOT
from tests.end_to_end.test_pipeline import pipeline

BAND = json.loads((ROOT / "tests/data/first_run_band.json").read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    runs = tmp_path_factory.mktemp("learning")
    done = pipeline(runs, "grpo", *BAND["settings"])
    assert done.returncode == 0, done.stderr
    return runs / "latest"


@pytest.mark.parametrize("name", sorted(BAND["figures"]))
def test_figures_stay_within_the_band(run, name):
    stage, figure = name.split(".")
    report = json.loads((run / "report.json").read_text())
    low, high = BAND["figures"][name]
    assert low <= report["stages"][stage][figure] <= high
