"""The trainjob stage through its command line, against a stand-in of the Kubernetes API.

One test lets the stand-in start the nodes for real: two torchruns of the real stage, over gloo.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components import artifact
from components.pretrain.config import PretrainConfig
from tests.components.conftest import free_port
from tests.components.kubernetes_server import CREATED, RUNNING, Server, ended
from tests.conftest import ROOT, stage

SETTINGS = {"steps": 2, "batch_size": 4, "micro_batch_size": 1, "window": 16}
SETTINGS |= {"lora": {"rank": 2, "alpha": 4}}
IMAGE = "registry.example/llada@sha256:12"
LINES = [
    "2026-01-01T00:00:01.1Z pretrain step 1",
    "2026-01-01T00:00:01.12Z pretrain step 2",
    "2026-01-01T00:00:02Z pretrain step 3",
]


def paths_of(manifest):
    arguments = manifest["spec"]["trainer"]["args"][4:]
    pairs = zip(arguments[::2], arguments[1::2], strict=True)
    return {flag[2:]: Path(path) for flag, path in pairs}


def work(manifest, name="pretrain", inputs=("base", "dataset")):
    """What a job leaves behind, made without training."""
    paths = paths_of(manifest)
    for role in ("adapter", "metrics"):
        (paths[role] / "deep").mkdir(parents=True)
        (paths[role] / "deep" / "file").write_text(role)
    artifact.record(
        {role: paths[role] for role in ("adapter", "metrics")},
        stage=name,
        config=PretrainConfig(),
        inputs={role: paths[role] for role in inputs},
        summary={"loss": 0.5, "tokens": 1},
    )


class Step:
    """One step of a pipeline: its configuration, where it writes, and its processes."""

    def __init__(self, folder, downloaded, **config):
        self.shared = folder / "shared"
        self.shared.mkdir()
        self.config = {"directory": str(self.shared), "image": IMAGE, "poll": 0.05, **config}
        self.settings = SETTINGS
        self.inputs = {"base": downloaded / "model", "dataset": downloaded / "dataset"}
        self.outputs = {role: folder / "out" / role for role in ("adapter", "metrics")}

    def run(self, **changes):
        """Runs it to its end, with fresh outputs as a pod that is started again has them."""
        shutil.rmtree(self.outputs["adapter"].parent, ignore_errors=True)
        paths = {**self.inputs, **self.outputs, "settings": json.dumps(self.settings)}
        return stage("trainjob", {**self.config, **changes}, check=False, **paths)

    def start(self):
        command = [sys.executable, "-m", "components.trainjob", "--config", json.dumps(self.config)]
        paths = {**self.inputs, **self.outputs, "settings": json.dumps(self.settings)}
        for role, path in paths.items():
            command += [f"--{role}", str(path)]
        return subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


@pytest.fixture
def step(tmp_path, downloaded):
    return Step(tmp_path, downloaded)


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Starts a server with the given behaviour, which the kubeconfig then names."""
    running = []

    def start(**behaviour):
        server = Server(**behaviour).__enter__()
        running.append(server)
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "kubeconfig")))
        return server

    yield start
    for server in running:
        server.__exit__()


def ends(done, code, *words):
    """The exit code, and one line on standard error with all of these words."""
    assert done.returncode == code, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr


def test_the_nodes_train_for_real(serve, step):
    """Two torchruns with the environment that Trainer's torch runtime gives, over one volume."""
    nodes, port = [], free_port()

    def start(manifest):
        trainer = manifest["spec"]["trainer"]
        for rank in range(trainer["numNodes"]):
            given = {
                "PET_NNODES": str(trainer["numNodes"]),
                "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
                "PET_NODE_RANK": str(rank),
                "PET_MASTER_ADDR": "127.0.0.1",
                "PET_MASTER_PORT": str(port),
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": "1",
                **{pair["name"]: pair["value"] for pair in trainer["env"]},
            }
            nodes.append(
                subprocess.Popen(
                    trainer["command"] + trainer["args"], cwd=ROOT, env={**os.environ, **given}
                )
            )

    def state():
        codes = [node.poll() for node in nodes]
        if None in codes:
            return RUNNING
        return ended("Failed", f"exit codes {codes}") if any(codes) else ended("Complete")

    server = serve(states=[state], on_create=start)
    try:
        done = step.run()
    finally:
        for node in nodes:
            node.kill()
    assert done.returncode == 0, done.stderr
    (manifest,) = server.created
    for role, path in step.outputs.items():
        record = artifact.verify(path)
        assert (record["stage"], record["output"]) == ("pretrain", role)
        assert record["config"]["window"] == SETTINGS["window"] and record["image"] == IMAGE
        theirs = {role: entry["fingerprint"] for role, entry in record["inputs"].items()}
        ours = {role: artifact.read(path)["fingerprint"] for role, path in step.inputs.items()}
        assert theirs == ours
    rows = (step.outputs["metrics"] / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 2]
    assert server.deleted == [manifest["metadata"]["name"]]
    assert not list((step.shared / "trainjobs").iterdir())


def test_the_job_is_what_was_asked_for(serve, step):
    server = serve(on_create=work)
    step.settings = {**SETTINGS, "steps": 3.0}
    done = step.run(nodes=2.0, processes=2, gpus=2, claim="training")
    assert done.returncode == 0, done.stderr
    trainer = server.created[0]["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"], trainer["image"]) == (2, 2, IMAGE)
    assert trainer["resourcesPerNode"]["limits"]["nvidia.com/gpu"] == "2"
    assert trainer["args"][:2] == ["-m", "components.pretrain"]
    assert json.loads(trainer["args"][3]) == step.settings
    assert all(path.is_relative_to(step.shared) for path in paths_of(server.created[0]).values())


def test_the_log_comes_once_and_in_order(serve, step):
    server = serve(states=[CREATED, RUNNING, RUNNING, RUNNING, ended("Complete")], on_create=work)
    server.lines = LINES
    done = step.run()
    assert done.returncode == 0, done.stderr
    shown = [line for line in done.stdout.splitlines() if "pretrain step" in line]
    assert shown == [
        f"2026-01-01T00:00:0{s}Z pretrain step {n}" for s, n in ((1, 1), (1, 2), (2, 3))
    ]
    assert server.since[0] is None and set(server.since[1:]) == {"2026-01-01T00:00:02Z"}
    assert "running" in done.stdout and "complete" in done.stdout


def test_a_new_pod_of_the_first_node_is_read_from_its_start(serve, step):
    server = serve(states=[RUNNING, ended("Complete")], on_create=work)
    server.lines = LINES

    def replaced():
        server.pods.append("node-0-0-new")
        server.lines = ["2026-01-01T00:00:01Z pretrain step 9", "no timestamp: the kubelet's own"]
        return ended("Complete")

    server.states = [RUNNING, replaced, ended("Complete")]
    done = step.run()
    assert done.returncode == 0, done.stderr
    assert "pretrain step 3" in done.stdout and "pretrain step 9" in done.stdout
    assert "kubelet" not in done.stdout


def test_broken_connections_are_survived(serve, step):
    server = serve(on_create=work)
    server.faults = [503, 0, 0, 500, 429]
    done = step.run()
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("cannot read trainjob pretrain-") == 5
    assert len(server.created) == 1


def test_a_failing_job_is_named_and_a_retry_replaces_it(serve, step):
    server = serve(states=[RUNNING, ended("Failed", "jobset failed: node 1 ran out of memory")])
    done = step.run()
    name = server.created[0]["metadata"]["name"]
    ends(done, 1, f"trainjob {name} failed", "node 1 ran out of memory", "describe trainjob")
    assert server.deleted == [] and name in server.jobs, "it is left to be looked at"
    server.states = [server.states[-1], RUNNING, ended("Complete")]
    server.on_create = work
    done = step.run()
    assert done.returncode == 0, done.stderr
    assert "replaced" in done.stdout
    assert [m["metadata"]["name"] for m in server.created] == [name, name]


def test_a_cancelled_step_deletes_its_job(serve, step):
    server = serve(states=[RUNNING])
    process = step.start()
    for line in process.stdout:
        if "running" in line:
            break
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    (manifest,) = server.created
    name = manifest["metadata"]["name"]
    assert server.deleted == [name] and f"trainjob {name} was deleted" in said
    assert not list((step.shared / "trainjobs").iterdir())


def test_a_killed_step_finds_its_running_job(serve, step):
    server = serve(states=[RUNNING])
    process = step.start()
    for line in process.stdout:
        if "running" in line:
            break
    process.kill()
    process.communicate(timeout=60)
    (manifest,) = server.created
    assert not server.deleted
    work(manifest)
    server.states = [RUNNING, ended("Complete")]
    done = step.run()
    assert done.returncode == 0, done.stderr
    assert "is followed" in done.stdout and len(server.created) == 1
    assert artifact.verify(step.outputs["adapter"])["stage"] == "pretrain"


def test_another_step_has_another_job(serve, step, tmp_path):
    server = serve(on_create=work)
    assert step.run().returncode == 0
    assert step.run().returncode == 0
    step.outputs = {role: tmp_path / "other" / role for role in step.outputs}
    assert step.run().returncode == 0
    names = [manifest["metadata"]["name"] for manifest in server.created]
    assert names[0] == names[1] != names[2]


def test_a_job_that_somebody_deletes(serve, step):
    server = serve()

    def gone():
        server.jobs.clear()
        return RUNNING

    server.states = [gone, RUNNING]
    ends(step.run(), 1, "was deleted by somebody else")


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
    assert not (step.outputs["adapter"] / artifact.RECORD).exists()


def test_damaged_outputs(serve, step):
    def damaged(manifest):
        work(manifest)
        (paths_of(manifest)["adapter"] / "deep" / "file").write_text("adapted")

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


def test_the_image_is_the_pods_own(serve, step, monkeypatch):
    server = serve(on_create=work)
    monkeypatch.setenv("KFP_POD_NAME", "llada-pipeline-xyz")
    done = step.run(image=None)
    assert done.returncode == 0, done.stderr
    assert server.created[0]["spec"]["trainer"]["image"] == IMAGE
