"""Real servers on free local ports (S3, a judge), a stand-in of Kubernetes, the smallest model."""

import os
import random
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest

from components.storage import connection
from model.tokenizer import load_tokenizer
from tests.components import radosgw as radosgw_cluster
from tests.components.corpora import download, prose, write_jsonl
from tests.components.kubernetes_server import Server as KubernetesServer
from tests.components.trainjob_step import Step
from tests.conftest import ROOT
from tests.ports import free_port

# Of the servers that are started here, and of the server that S3_TEST_ENDPOINT names.
ACCESS = os.environ.get("S3_TEST_ACCESS_KEY", "test-access")
SECRET = os.environ.get("S3_TEST_SECRET_KEY", "test-secret-of-some-length")
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Server:
    """A running S3 server."""

    name: str
    endpoint: str

    def client(self):
        """A client of its own, apart from the code under test."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
        )


def start_nanio(root, port):
    command = [str(BIN / "nanio"), "serve", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--data-dir", str(root / "data"), "--no-access-log", "--log-level", "warning"]
    keys = {"NANIO_ACCESS_KEY": ACCESS, "NANIO_SECRET_KEY": SECRET}
    return command, keys


def start_juicefs(root, port):
    meta = f"sqlite3://{root}/meta.db"
    juicefs = str(BIN / "juicefs")
    subprocess.run(
        [juicefs, "format", "--storage", "file", "--bucket", f"{root}/blocks/", meta, "volume"],
        check=True,
        capture_output=True,
    )
    command = [juicefs, "gateway", "--multi-buckets", "--no-usage-report", "--no-banner"]
    command += ["--cache-dir", str(root / "cache"), "--log", str(root / "log")]
    command += ["--metrics", f"127.0.0.1:{free_port()}", meta, f"127.0.0.1:{port}"]
    return command, {"MINIO_ROOT_USER": ACCESS, "MINIO_ROOT_PASSWORD": SECRET}


def start_radosgw(root, port):
    keys = {"ACCESS": ACCESS, "SECRET": SECRET}
    return [sys.executable, "-m", "tests.components.radosgw", str(root), str(port)], keys


SERVERS = {"nanio": start_nanio, "juicefs": start_juicefs, "radosgw": start_radosgw}


@pytest.fixture(scope="session")
def nanio(tmp_path_factory):
    """A running nanio with the bucket `bucket`."""
    yield from running("nanio", tmp_path_factory.mktemp("nanio"))


@pytest.fixture(scope="session")
def juicefs(tmp_path_factory):
    """A running JuiceFS gateway with the bucket `bucket`."""
    yield from running("juicefs", tmp_path_factory.mktemp("juicefs"))


@pytest.fixture(scope="session")
def radosgw(tmp_path_factory):
    """Ceph's gateway with the bucket `bucket`, where Debian's packages of it are installed."""
    if missing := [name for name in radosgw_cluster.PROGRAMS if shutil.which(name) is None]:
        pytest.skip(f"{missing[0]} is not installed")
    yield from running("radosgw", tmp_path_factory.mktemp("radosgw"))


@pytest.fixture(scope="session")
def endpoint():
    """The server that S3_TEST_ENDPOINT names, with the bucket `bucket`."""
    if (address := os.environ.get("S3_TEST_ENDPOINT")) is None:
        pytest.skip("S3_TEST_ENDPOINT names no server")
    server = Server("endpoint", address)
    if "bucket" not in [each["Name"] for each in server.client().list_buckets()["Buckets"]]:
        server.client().create_bucket(Bucket="bucket")
    return server


def running(name, root):
    port = free_port()
    command, keys = SERVERS[name](root, port)
    with (root / "output").open("wb") as output:
        process = subprocess.Popen(
            command, env={**os.environ, **keys}, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_for(port, process, root / "output")
        server = Server(name, f"http://127.0.0.1:{port}")
        server.client().create_bucket(Bucket="bucket")
        yield server
    finally:
        process.terminate()
        process.wait(20)


def wait_for(port, process, output):
    """Returns once the port answers; fails with the server's own words if it ends or is late."""
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, output.read_text()
        time.sleep(0.1)
    raise AssertionError(f"port {port} does not answer: {output.read_text()}")


def point_at(server, monkeypatch):
    """Sets the environment as a user of the server does.

    nanio reads the body of a request that it refused as the next request, so no connection of an
    earlier test is used again.
    """
    connection.forget()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture(params=[*SERVERS, "endpoint"])
def s3(request, monkeypatch):
    """The environment that points at a server; a test that asks for it runs on each."""
    server = request.getfixturevalue(request.param)
    point_at(server, monkeypatch)
    return server


@pytest.fixture(params=["local", *SERVERS, "endpoint"])
def place(request, monkeypatch, tmp_path):
    """A new location for one test: here, and on each server."""
    if request.param == "local":
        return str(tmp_path / "place")
    point_at(request.getfixturevalue(request.param), monkeypatch)
    return f"s3://bucket/place-{random.getrandbits(32):x}"


@pytest.fixture(scope="session")
def real_judge():
    """Base URL of a llama.cpp server with SmolLM2-135M-Instruct, up as long as the tests run."""
    command = [sys.executable, "-m", "tests.components.judge_server"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        try:
            yield server.stdout.readline().decode().strip() + "/v1"
        finally:
            server.stdin.close()
            server.wait(60)


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """The smallest model, with a tokenizer trained on a little prose."""
    root = tmp_path_factory.mktemp("base")
    shape = {"d_model": 8, "n_layers": 1, "n_heads": 1, "mlp_hidden_size": 8, "vocabulary": 320}
    text = write_jsonl(root / "prose.jsonl", [{"text": prose(300, seed)} for seed in range(5)])
    sample = {"long_share": 0, "min_tokens": 1}
    download(root, "new", shape=shape, pretrain=[{"location": text}], sample=sample)
    return root / "model"


@pytest.fixture(scope="session")
def tokenizer(base):
    """The tokenizer of `base`."""
    return load_tokenizer(base)


@pytest.fixture
def step(tmp_path, downloaded):
    return Step(tmp_path, downloaded)


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Starts a server with the given behaviour, which the kubeconfig then names."""
    running = []

    def start(**behaviour):
        server = KubernetesServer(**behaviour).__enter__()
        running.append(server)
        monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig(tmp_path / "kubeconfig")))
        return server

    yield start
    for server in running:
        server.__exit__()
