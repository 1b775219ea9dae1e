"""The trainjob stage through its command line, against a stand-in of the Kubernetes API.

One test lets the stand-in start the nodes for real: two torchruns of the real stage, over gloo.
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from components import artifact, coerce
from components.pretrain.config import PretrainConfig
from tests.components.kubernetes_server import CREATED, RUNNING, WORKFLOW, ended
from tests.components.trainjob_step import IMAGE, SETTINGS, ends, paths_of, work
from tests.conftest import ROOT
from tests.ports import free_port

LINES = [
    "2026-01-01T00:00:01.1Z pretrain step 1",
    "2026-01-01T00:00:01.12Z pretrain step 2",
    "2026-01-01T00:00:02Z pretrain step 3",
]


def test_the_nodes_train_for_real(serve, step):
    """Two torchruns with the environment that Trainer's torch runtime gives, over one volume.

    The stage's own command starts them, as it does in a pipeline, with its own outputs.
    """
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
                # An optional secret that is not there leaves its variable out.
                **{pair["name"]: pair["value"] for pair in trainer["env"] if "value" in pair},
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
    step.settings = {**SETTINGS, "micro_batch_size": 4}
    try:
        done = step.run_as_itself()
    finally:
        for node in nodes:
            node.kill()
    assert done.returncode == 0, done.stderr
    (manifest,) = server.created
    for role, path in step.outputs.items():
        record = artifact.verify(path)
        assert (record["stage"], record["output"]) == ("pretrain", role)
        assert record["config"]["window"] == SETTINGS["window"] and record["image"] == IMAGE
        assert record["config"]["micro_batch_size"] == 2, "each of two processes has half of 4"
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
    sent = json.loads(trainer["args"][3])
    asked = coerce.build(PretrainConfig, step.settings)
    kept = str(step.shared / "checkpoints")  # on the claim, where the settings name no place
    assert coerce.build(PretrainConfig, sent) == dataclasses.replace(asked, checkpoint_uri=kept)
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
    assert artifact.verify(step.outputs["trained"])["stage"] == "pretrain"


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


def test_the_image_is_the_pods_own(serve, step, monkeypatch):
    server = serve(on_create=work)
    monkeypatch.setenv("KFP_POD_NAME", "llada-pipeline-xyz")
    done = step.run(image=None)
    assert done.returncode == 0, done.stderr
    (job,) = server.created
    assert job["spec"]["trainer"]["image"] == IMAGE
    assert job["metadata"]["ownerReferences"] == [WORKFLOW], "it goes when the run's workflow goes"
