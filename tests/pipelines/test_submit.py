"""`python -m pipelines.submit` against a server that speaks Kubeflow's REST API over HTTP."""

import socket

import pytest

from pipelines.recipes import tiny
from tests.pipelines.kfp_server import API, Server
from tests.pipelines.submitting import FAST, refused, submit


def test_run_is_uploaded_started_and_followed():
    with Server() as server:
        done = submit(server, "--set", "sft.learning_rate=2e-5", "--experiment", "sums", *FAST)
    assert done.returncode == 0, done.stderr
    (run,) = server.runs.values()
    assert server.experiments[run["experiment_id"]]["display_name"] == "sums"
    given = run["runtime_config"]["parameters"]
    assert list(given) == ["sft"]
    assert given["sft"]["learning_rate"] == 2e-5
    assert given["sft"]["steps"] == tiny().sft.steps
    version = server.versions[run["pipeline_version_reference"]["pipeline_version_id"]]
    assert version["display_name"].startswith("tiny-")
    pipeline, platform = version["spec"]
    assert pipeline["pipelineInfo"]["name"] == "llada-reasoning" and "platforms" in platform
    lines = done.stdout.splitlines()
    url = f"{server.url}/#/runs/details/{run['run_id']}"
    assert lines[0] == url and lines[-1] == f"succeeded: {url}"
    assert "download SUCCEEDED 20" in lines and "evaluate grpo SUCCEEDED 20" in lines
    assert not any(word in done.stdout for word in ("root", "executor", "driver(", "condition"))


def test_same_content_is_not_sent_twice():
    with Server() as server:
        assert submit(server).returncode == 0
        assert submit(server, "--set", "sft.steps=10").returncode == 0
    uploads = [path for _, path in server.requests if "upload" in path]
    assert uploads == [f"{API}/pipelines/upload", f"{API}/pipelines/upload_version"]
    assert len(server.runs) == 2 and len(server.experiments) == 1


def test_several_nodes_are_part_of_the_version_and_no_argument():
    with Server() as server:
        done = submit(server, "--nodes", "pretrain=4", "--nodes", "dpo=2")
        refused(submit(server, "--nodes", "pretrain=3"), "nodes=3, allowed: 1, 2, 4, 8: ")
    assert done.returncode == 0, done.stderr
    (run,) = server.runs.values()
    reference = run["pipeline_version_reference"]
    pipeline, _ = server.versions[reference["pipeline_version_id"]]["spec"]
    executors = pipeline["deploymentSpec"]["executors"]
    names = {name for name, executor in executors.items() if "TRAINJOB" in str(executor)}
    assert names == {"exec-pretrain", "exec-dpo"}
    assert not run["runtime_config"].get("parameters")


def test_a_base_on_the_volume_is_part_of_the_version():
    """What mounts the claim is compiled, and no value of the form."""
    mounts = []
    for value in ("null", "/training/models"):
        with Server() as server:
            setting = ("--set", f"download.mirror={value}", "--no-pins")
            done = submit(server, *setting, recipe="llada_1_5")
            assert done.returncode == 0, done.stderr
        (run,) = server.runs.values()
        reference = run["pipeline_version_reference"]
        _, platform = server.versions[reference["pipeline_version_id"]]["spec"]
        mounts.append("/training" in str(platform))
    assert mounts == [False, True]


def test_no_cache_runs_every_stage():
    with Server() as server:
        assert submit(server, "--no-cache").returncode == 0
    for version in server.versions.values():
        tasks = version["spec"][0]["root"]["dag"]["tasks"]
        assert tasks["download"]["cachingOptions"] == {}


def test_checkpoints_are_kept_beside_the_artifacts():
    """Where the root is S3; a stage that names its own place keeps it."""
    with Server() as server:
        own = ("--set", "dpo.checkpoint_uri=s3://bucket/own")
        assert submit(server, "--pipeline-root", "s3://bucket/root/", *own).returncode == 0
        assert submit(server, "--pipeline-root", "minio://bucket/root").returncode == 0
        assert submit(server, "--checkpoints", "s3://bucket/all").returncode == 0
        root = ("--pipeline-root", "s3://bucket/root")
        assert submit(server, *root, "--checkpoints", "none").returncode == 0
        done = submit(server, "--checkpoints", "checkpoints")
    refused(done, "checkpoint_uri='checkpoints'", "an absolute path")
    places = [
        {stage: config.get("checkpoint_uri") for stage, config in parameters(run).items()}
        for run in server.runs.values()
    ]
    beside = "s3://bucket/root/checkpoints"
    assert places[0] == {
        "pretrain": beside,
        "sft": beside,
        "grpo": beside,
        "dpo": "s3://bucket/own",
    }
    assert places[1] == places[3] == {}
    assert set(places[2].values()) == {"s3://bucket/all"} and len(places[2]) == 4


def test_training_for_days_without_checkpoints_is_warned_of():
    """The server's own root may be in S3, which it tells nobody."""
    gpu = ("--placement", "gpu", "--no-cache")
    with Server() as server:
        warned = submit(server, *gpu)
        asked = submit(server, *gpu, "--checkpoints", "none")
        kept = submit(server, *gpu, "--pipeline-root", "s3://bucket/root")
    assert warned.returncode == asked.returncode == kept.returncode == 0
    assert "warning: no checkpoints, so that training which is interrupted" in warned.stderr
    assert "warning" not in asked.stderr + kept.stderr


def parameters(run):
    return run["runtime_config"].get("parameters", {})


@pytest.mark.parametrize(
    ("image", "warned"),
    [
        ("llada-reasoning:dev", True),
        ("registry:5000/llada", True),
        ("llada-reasoning:v1.2", True),
        ("llada-reasoning:1a2b3c4", False),
        ("registry/llada@sha256:" + "0" * 64, False),
    ],
)
def test_a_tag_that_moves_is_warned_of(image, warned):
    """The server would hand out the results of yesterday's image under today's name."""
    with Server() as server:
        done = submit(server, IMAGE=image)
        anew = submit(server, "--no-cache", IMAGE=image)
    assert done.returncode == anew.returncode == 0
    assert "warning" not in anew.stderr
    assert (f"IMAGE={image} may be another image tomorrow" in done.stderr) is warned


def test_token_of_the_environment():
    with Server(token="right") as server:
        done = submit(server, KFP_TOKEN="right")
        refused(submit(server, KFP_TOKEN="wrong"), "was refused (401)", "export KFP_TOKEN=")
        refused(submit(server), "is missing (401)", "create token")
    assert done.returncode == 0, done.stderr
    assert "right" not in done.stdout + done.stderr and "right" not in str(server.requests)


def test_token_of_the_service_account(tmp_path):
    """The kubelet's file is read before every request, so a renewed token is used."""
    file = tmp_path / "token"
    file.write_text("right")
    with Server(token="right") as server:
        done = submit(server, *FAST, KF_PIPELINES_SA_TOKEN_PATH=str(file))
    assert done.returncode == 0, done.stderr
    assert set(server.tokens) == {"Bearer right"}


def test_namespace_is_for_many_users(tmp_path):
    with Server(multi_user=True) as server:
        refused(submit(server, home=tmp_path), "--namespace is missing")
        done = submit(server, "--namespace", "me", home=tmp_path)
    assert done.returncode == 0, done.stderr
    (experiment,) = server.experiments.values()
    assert experiment["namespace"] == "me"
    with Server() as server:
        done = submit(server, "--namespace", "me", home=tmp_path)
    refused(done, "--namespace='me'", "this server has one user", "kubeflow")
    assert not server.experiments


def test_no_token_argument():
    refused_words = submit("http://127.0.0.1:1", "--token", "x")
    assert refused_words.returncode == 2 and "unrecognized arguments" in refused_words.stderr


def test_host_down():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    refused(submit(url), url, "no answer", "port-forward")


@pytest.mark.parametrize(
    ("health", "page", "words"),
    [
        (404, False, "no Kubeflow Pipelines API v2"),
        (403, False, "token is missing (403)"),
        (500, False, "500"),
        (200, True, "a page, to log in perhaps"),
        (302, True, "a page, to log in perhaps"),
    ],
)
def test_another_server(health, page, words):
    with Server(health=health, page=page) as server:
        refused(submit(server), server.url, words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "sft.lr=2e-5"], ["unknown field sft.lr", "allowed", "learning_rate"]),
        (["--set", "sft.steps=many"], ["sft.steps='many'", "a whole number"]),
        (["--placement", "moon"], ["--placement='moon'", "gpu, small"]),
        (["--preference", "ppo"], ["preference='ppo'", "dpo, grpo"]),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_sent(arguments, words):
    with Server() as server:
        refused(submit(server, *arguments), *words)
    assert server.requests == []


def test_unknown_recipe():
    with Server() as server:
        refused(submit(server, recipe="huge"), "RECIPE='huge'", "llada_8b_instruct, tiny")
    assert server.requests == []


def test_host_without_scheme():
    refused(submit("localhost:8080"), "--host='localhost:8080'", "http://")
