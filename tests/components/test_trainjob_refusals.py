"""What the trainjob stage refuses, in one line each: outputs, settings, clusters, rights."""

import dataclasses
import time

import pytest

from components import artifact
from components.grpo.config import GrpoConfig
from components.sft.config import SftConfig
from components.trainjob.config import TrainjobConfig, fit
from tests.components.trainjob_step import SETTINGS, ends, paths_of, work


@pytest.mark.parametrize(
    ("leave", "words"),
    [
        (lambda manifest: None, "no such directory"),
        (lambda manifest: work(manifest, name="sft"), "made by sft"),
        (lambda manifest: work(manifest, inputs=("base",)), "from other inputs"),
    ],
)
def test_outputs_are_checked_before_they_are_returned(serve, step, leave, words):
    serve(on_create=leave)
    ends(step.run(), 1, words)
    assert not (step.outputs["trained"] / artifact.RECORD).exists()


def test_damaged_outputs(serve, step):
    def damaged(manifest):
        work(manifest)
        (paths_of(manifest)["trained"] / "deep" / "file").write_text("adapted")

    serve(on_create=damaged)
    ends(step.run(), 1, "its sha256 is not")


@pytest.mark.parametrize(
    ("config", "settings", "words"),
    [
        ({"runtime": "torch-nowhere"}, {}, ["runtime='torch-nowhere'", "clustertrainingruntimes"]),
        ({"claim": "missing"}, {}, ["claim='missing'", "get persistentvolumeclaims"]),
        ({"directory": "/nowhere"}, {}, ["directory='/nowhere'", "mounted"]),
        ({"nodes": 0}, {}, ["nodes=0", "1 or more"]),
        ({"memory": "much"}, {}, ["memory='much'", "96Gi"]),
        ({"image": None}, {}, ["image=None", "not a pod"]),
        ({"directory": "/sys"}, {}, ["directory='/sys'", "cannot write there", "training-owner"]),
        ({"stage": "merge"}, {}, ["stage='merge'", "pretrain, sft, dpo, grpo"]),
        ({}, {"step": 2}, ["unknown field step", "did you mean steps"]),
        ({}, {"steps": 1.5}, ["steps=1.5"]),
        ({"nodes": 3}, {}, ["nodes=3", "allowed: 1, 2, 4: nodes that share batch_size=4"]),
    ],
)
def test_bad_input(serve, step, config, settings, words):
    server = serve()
    step.settings = {**SETTINGS, **settings}
    ends(step.run(**config), 2, *words)
    assert not server.created


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("stage", "merge", "pretrain, sft, dpo, grpo"),
        ("runtime_kind", "Runtime", "ClusterTrainingRuntime, TrainingRuntime"),
    ],
)
def test_no_configuration_is_built_with_another_word(field, value, allowed):
    with pytest.raises(ValueError, match=f"{field}='{value}', allowed: {allowed}"):
        TrainjobConfig(**{field: value})


def test_another_stage_than_its_placement_names(serve, step):
    server = serve()
    ends(step.run_as_itself(stage="sft"), 2, "TRAINJOB='sft'", "components.pretrain")
    assert not server.created


@pytest.mark.parametrize(
    ("settings", "nodes", "processes", "size"),
    [
        (SftConfig(batch_size=64, micro_batch_size=16), 2, 8, 4),
        (SftConfig(batch_size=64, micro_batch_size=2), 2, 8, 2),
        (SftConfig(batch_size=24, micro_batch_size=8), 4, 1, 6),
        (GrpoConfig(batch_size=64, micro_batch_size=4), 2, 8, 4),
    ],
)
def test_the_batch_is_fitted_to_the_processes(settings, nodes, processes, size):
    fitted = fit(settings, nodes=nodes, processes=processes)
    assert fitted == dataclasses.replace(settings, micro_batch_size=size)


@pytest.mark.parametrize(
    ("settings", "nodes", "processes", "words"),
    [
        (SftConfig(batch_size=64), 3, 8, "nodes=3, allowed: 1, 2, 4, 8: nodes of 8 processes"),
        (GrpoConfig(batch_size=24), 4, 1, "1, 2, 3, 6: nodes that share prompts of a step=6"),
        (SftConfig(batch_size=4), 1, 8, "nodes=1, allowed: fewer processes a node"),
    ],
)
def test_a_batch_that_cannot_be_shared_names_what_fits(settings, nodes, processes, words):
    with pytest.raises(ValueError, match=words):
        fit(settings, nodes=nodes, processes=processes)


def test_settings_are_an_object(serve, step):
    serve()
    step.settings = [1]
    ends(step.run(), 2, "--settings=[1]", "a JSON object")


def test_no_trainer(serve, step):
    serve(trainer=False)
    ends(step.run(), 2, "no trainer.kubeflow.org/v1alpha1", "install Kubeflow Trainer")


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (("POST", "trainjobs"), "cannot create trainjob"),
        (("GET", "persistentvolumeclaims"), "cannot read claim"),
    ],
)
def test_missing_rights(serve, step, what, words):
    server = serve()
    server.denied = {what}
    ends(step.run(), 2, words, "service-accounts.yaml")


def test_no_kubeconfig(step, monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    ends(step.run(), 2, "no cluster", "KUBECONFIG")


def test_unreachable(serve, step):
    server = serve()
    server.__exit__()
    started = time.monotonic()
    ends(step.run(), 2, server.url, "does not answer", "kubectl cluster-info")
    assert time.monotonic() - started < 30
    server.http.server_close()
