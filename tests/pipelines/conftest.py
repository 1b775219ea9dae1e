"""The recipes with all stages, compiled once by the command behind `make pipeline-compile`."""

import dataclasses
import os
import subprocess
import sys

import pytest
import yaml

from components.preflight.config import Recipe
from pipelines import placement
from pipelines.recipes import RECIPES
from tests.components.conftest import nanio  # noqa: F401
from tests.conftest import ROOT
from tests.pipelines.asked import ask, converse  # noqa: F401

IMAGE = {"IMAGE": "registry.example/llada@sha256:" + "0" * 64}

STAGES = (
    "download",
    "pretrain",
    "merge",
    "sft",
    "dpo",
    "grpo",
    "evaluate",
    "report",
    "release",
)


def graphs(pipeline):
    """The tasks of every graph within the pipeline."""
    return [part["dag"]["tasks"] for part in pipeline["components"].values() if "dag" in part]


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A recipe, its placement, and the two documents that a cluster gets."""

    recipe: Recipe
    placements: dict
    pipeline: dict
    platform: dict

    def executors(self):
        """Stage, container and Kubernetes settings of every kind of pod."""
        settings = self.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        for name, executor in self.pipeline["deploymentSpec"]["executors"].items():
            container = executor["container"]
            stage = container["command"][2].removeprefix("components.")
            yield stage, container, settings[name]

    def tasks(self):
        """Every task that starts a pod, and its stage."""
        for tasks in [self.pipeline["root"]["dag"]["tasks"], *graphs(self.pipeline)]:
            for task in tasks.values():
                component = self.pipeline["components"][task["componentRef"]["name"]]
                if label := component.get("executorLabel"):
                    executor = self.pipeline["deploymentSpec"]["executors"][label]
                    yield executor["container"]["command"][2].removeprefix("components."), task


# The others have fewer stages: tests/pipelines/test_recipes.py compiles them.
@pytest.fixture(scope="session", params=["llada_8b", "tiny"])
def compiled(request, tmp_path_factory):
    """The recipe compiled by the command behind `make pipeline-compile`."""
    folder = tmp_path_factory.mktemp("compiled")
    command = [sys.executable, "-m", "pipelines.compiler", request.param, "--output", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | IMAGE
    )
    assert done.returncode == 0, done.stderr
    pipeline, platform = yaml.safe_load_all((folder / f"{request.param}.yaml").read_text())
    placements = placement.PROFILES[placement.profile(request.param)]
    return Compiled(RECIPES[request.param](), placements, pipeline, platform)
