"""Conditions of a local run: a figure of a task in the same graph decides, two branches deep."""

import subprocess
import sys

import pytest
from kfp import dsl, local
from kfp.local import status, subprocess_task_handler
from kfp.local.orchestrator.enhanced_dag_orchestrator import ConditionEvaluator

from pipelines import conditions

WRITE = (
    "import pathlib, sys; file = pathlib.Path(sys.argv[1]); "
    "file.parent.mkdir(parents=True, exist_ok=True); file.write_text(sys.argv[2])"
)


class Handler(subprocess_task_handler.SubprocessTaskHandler):
    """Runs a container's command here, as `make pipeline-run` does."""

    def validate_image(self, image):
        pass

    def validate_not_container_component(self, full_command):
        pass

    def run(self):
        subprocess.run([sys.executable, *self.full_command[1:]], check=True)
        return status.Status.SUCCESS


@dsl.container_component
def measure(said: str, figure: dsl.OutputPath(float)):
    """Says a figure."""
    return dsl.ContainerSpec(image="none", command=["python", "-c", WRITE], args=[figure, said])


@dsl.container_component
def mark(file: str):
    """Shows that it ran."""
    return dsl.ContainerSpec(image="none", command=["python", "-c", WRITE], args=[file, "ran"])


@dsl.pipeline
def gated(figure: str, bar: str, file: str, branch: str):
    """As `llada.py`: the bar comes from outside the branch, the figure from within it."""
    least = measure(said=bar)
    with dsl.If(branch == "one"):
        found = measure(said=figure)
        with dsl.If(found.outputs["figure"] >= least.outputs["figure"]):
            mark(file=file)
    with dsl.Else():
        other = measure(said=figure)
        with dsl.If(other.outputs["figure"] >= least.outputs["figure"]):
            mark(file=file)


def runs(tmp_path, figure, bar, branch):
    """Whether the gated task ran."""
    local.init(
        runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "artifacts")
    )
    gated(figure=figure, bar=bar, file=str(tmp_path / "marked"), branch=branch)
    return (tmp_path / "marked").exists()


@pytest.fixture(autouse=True)
def handler(monkeypatch):
    monkeypatch.setattr(subprocess_task_handler, "SubprocessTaskHandler", Handler)
    resolver = ConditionEvaluator._resolve_pipeline_channel
    monkeypatch.setattr(ConditionEvaluator, "_resolve_pipeline_channel", staticmethod(resolver))


@pytest.mark.parametrize("branch", ["one", "other"])
@pytest.mark.parametrize(
    ("figure", "bar", "good"), [("0.7", "0.5", True), ("0.5", "0.5", True), ("0.4", "0.5", False)]
)
def test_the_figure_decides(tmp_path, figure, bar, good, branch):
    conditions.mend()
    assert runs(tmp_path, figure, bar, branch) is good


def test_kfp_still_needs_it(tmp_path, monkeypatch):
    """When this fails, KFP finds the figure itself and `pipelines/conditions.py` can go."""
    original = staticmethod(conditions._inputs_of_the_graph)
    monkeypatch.setattr(ConditionEvaluator, "_resolve_pipeline_channel", original)
    assert runs(tmp_path, "0.7", "0.5", "one") is False
