"""A stage outlives a failure and a lost machine on an installation that is patched as ours.

The installation is a stored copy of the fields that are patched, rendered with kustomize; the retry
policy is the one that Argo gets by merging its defaults into the templates that KFP writes.
"""

import json
import re

import pytest
import yaml

from components import USER
from components.trainjob import manifest
from pipelines.placement import STAGES
from tests.conftest import ROOT
from tests.manifests import argo
from tests.manifests.test_overlays import MANIFESTS, build, named
from tests.pipelines.conftest import compiled  # noqa: F401

INSTALLED = ROOT / "tests/data/kfp/installed.yaml"
HOUR = 3600


@pytest.fixture(scope="module")
def patched(tmp_path_factory):
    """The stored copy with the component that `manifests/kfp` adds to the installation."""
    folder = tmp_path_factory.mktemp("kfp")
    (folder / "installed.yaml").write_text(INSTALLED.read_text())
    # Kustomize takes components by a relative path alone.
    (folder / "survival").mkdir()
    for file in (MANIFESTS / "survival").iterdir():
        (folder / "survival" / file.name).write_text(file.read_text())
    ours = yaml.safe_load((MANIFESTS / "kfp" / "kustomization.yaml").read_text())
    assert ours["components"] == ["../survival"]
    ours |= {"resources": ["installed.yaml"], "components": ["survival"]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(ours))
    return build(folder)


def default(documents):
    """The retry strategy that Argo gives every template."""
    settings = named(documents, "ConfigMap", "workflow-controller-configmap")["data"]
    return yaml.safe_load(settings["workflowDefaults"])["spec"]["templateDefaults"]["retryStrategy"]


def strategies(compiled, documents):  # noqa: F811
    """Stage and effective retry strategy of every task."""
    for stage, task in compiled.tasks():
        yield stage, argo.merged(default(documents), argo.template(task.get("retryPolicy")))


def test_failed_and_deleted_pods_are_started_again(compiled, patched):  # noqa: F811
    for stage, strategy in strategies(compiled, patched):
        assert strategy["retryPolicy"] == "Always" and strategy["expression"] == argo.EXPRESSION
        wanted = compiled.placements[stage]
        if not wanted.retries:
            continue
        assert strategy["limit"] == str(wanted.retries)
        for status, exit_code in (("Failed", 1), ("Failed", 143), ("Failed", 137), ("Error", 0)):
            attempt = {"status": status, "exit_code": exit_code, "attempts": 1}
            late = wanted.retries * wanted.hours * HOUR
            assert argo.is_started_again(strategy, **attempt, seconds=late), stage


def test_graphs_are_not_repeated(patched):
    """A graph fails with its stage and has no exit code; a pod of the default is the same."""
    graph = {"status": "Failed", "exit_code": 0, "attempts": 1, "seconds": 60}
    assert not argo.is_started_again(default(patched), **graph)


def test_as_installed_no_failure_is_started_again(compiled):  # noqa: F811
    """The fault that the patch is there for."""
    installed = list(yaml.safe_load_all(INSTALLED.read_text()))
    failure = {"status": "Failed", "exit_code": 143, "attempts": 1, "seconds": 60}
    for stage, strategy in strategies(compiled, installed):
        assert strategy["retryPolicy"] == "OnError", stage
        assert not argo.is_started_again(strategy, **failure)


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_the_window_leaves_time_for_every_attempt(stage):
    for placement in STAGES[stage]:
        assert placement.window >= (placement.retries + 1) * placement.hours * HOUR


def test_the_rest_of_the_installation_is_kept(patched):
    settings = named(patched, "ConfigMap", "workflow-controller-configmap")["data"]
    assert settings["executor"] == "imagePullPolicy: IfNotPresent\n"
    kept = yaml.safe_load(settings["workflowDefaults"])["spec"]["ttlStrategy"]
    assert kept["secondsAfterFailure"] == 24 * HOUR and kept["secondsAfterSuccess"] == HOUR
    (container,) = named(patched, "Deployment", "ml-pipeline")["spec"]["template"]["spec"][
        "containers"
    ]
    assert {"name": "PUBLISH_LOGS", "value": "true"} in container["env"]


def test_pods_have_time_to_save_and_are_told(patched):
    (container,) = named(patched, "Deployment", "ml-pipeline")["spec"]["template"]["spec"][
        "containers"
    ]
    (value,) = [v["value"] for v in container["env"] if v["name"] == "COMPILED_PIPELINE_SPEC_PATCH"]
    (kind,) = json.loads(value).items()
    assert kind[0] == "podSpecPatch"
    pod = json.loads(kind[1])
    assert pod["terminationGracePeriodSeconds"] >= manifest.GRACE
    assert pod["securityContext"] == {"fsGroup": USER}
    (main,) = pod["containers"]
    command = main["lifecycle"]["preStop"]["exec"]["command"]
    assert main["name"] == "main" and command[:2] == ["python", "-m"]
    assert (ROOT / f"{command[2].replace('.', '/')}.py").is_file()


def test_the_readme_has_the_settings_ready_to_paste(patched):
    """For administrators of other clusters: the very values that are applied here."""
    blocks = re.findall(r"```yaml\n(.*?)```", (MANIFESTS / "README.md").read_text(), re.DOTALL)
    texts = [document for block in blocks for document in yaml.safe_load_all(block)]
    retries = yaml.safe_load((MANIFESTS / "survival" / "retries.yaml").read_text())
    pods = yaml.safe_load((MANIFESTS / "survival" / "pods.yaml").read_text())
    assert yaml.safe_load(retries["data"]["workflowDefaults"]) in texts
    assert pods["spec"]["template"]["spec"]["containers"][0]["env"] in texts
