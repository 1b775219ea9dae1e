"""Pushing to a real registry on this machine's loopback, and the digest that is pinned by it."""

import io
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request

import pytest

from components import container
from pipelines.engine import REVISION
from tests.conftest import ROOT, _unavailable

TAG = "llada-reasoning-test:push"


@pytest.fixture
def registry(tmp_path):
    """The address of Debian's docker-registry with its storage below `tmp_path`."""
    if shutil.which("docker-registry") is None:
        _unavailable("no docker-registry; install it with `sudo images/engine.sh`")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    settings = tmp_path / "registry.yml"
    settings.write_text(
        f"version: 0.1\nhttp:\n  addr: {address}\n"
        f"storage:\n  filesystem:\n    rootdirectory: {tmp_path / 'registry'}\n"
    )
    command = ["docker-registry", "serve", str(settings)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        _wait(f"http://{address}/v2/")
        yield address
        server.terminate()


def _wait(url):
    for _ in range(100):
        try:
            urllib.request.urlopen(url).close()
            return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"no registry at {url}")


@pytest.fixture
def small_image(engine):
    """An image of one file with the label that the shared image has."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("file"))
    content.seek(0)
    changes = [f"LABEL {REVISION}=0123abc"]
    engine.api.import_image_from_data(content.read(), *TAG.split(":"), changes=changes)
    yield TAG
    engine.images.remove(engine.images.get(TAG).id, force=True)


def push(registry, pinned, tag=TAG):
    command = [sys.executable, "-m", "images.push", "--registry", registry, "--tag", tag]
    command += ["--pinned", str(pinned)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_push_pins_the_digest(engine, small_image, registry, tmp_path):
    pinned = tmp_path / "pinned.txt"
    done = push(f"{registry}/team", pinned)
    assert done.returncode == 0, done.stderr
    name = container.image({}, pinned)
    assert name.startswith(f"{registry}/team/llada-reasoning@sha256:")
    original = engine.images.get(TAG).id
    engine.images.remove(f"{registry}/team/llada-reasoning:0123abc")
    assert engine.images.pull(name).id == original
    engine.images.remove(name)


def test_no_registry(small_image, tmp_path):
    done = push("127.0.0.1:1", tmp_path / "pinned.txt")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "cannot push to REGISTRY=127.0.0.1:1" in line and "refused" in line
    assert not (tmp_path / "pinned.txt").exists()


def test_no_image(engine, tmp_path):
    done = push("127.0.0.1:1", tmp_path / "pinned.txt", tag="llada-reasoning-test:never")
    assert done.returncode == 2
    assert "no image IMAGE=llada-reasoning-test:never" in done.stderr
