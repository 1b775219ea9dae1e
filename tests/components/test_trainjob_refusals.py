"""What the trainjob stage refuses, in one line each: outputs, settings, clusters, rights."""

import time

import pytest

from components import artifact
from components.trainjob.config import TrainjobConfig
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
        ({"stage": "dpo"}, {}, ["stage='dpo'", "pretrain, sft"]),
        ({}, {"step": 2}, ["unknown field step", "did you mean steps"]),
        ({}, {"steps": 1.5}, ["steps=1.5"]),
        ({"nodes": 3}, {}, ["settings.batch_size=4", "3 processes"]),
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
        ("stage", "grpo", "pretrain, sft"),
        ("runtime_kind", "Runtime", "ClusterTrainingRuntime, TrainingRuntime"),
    ],
)
def test_no_configuration_is_built_with_another_word(field, value, allowed):
    with pytest.raises(ValueError, match=f"{field}='{value}', allowed: {allowed}"):
        TrainjobConfig(**{field: value})


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
