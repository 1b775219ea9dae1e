"""What the image is built from: linted, and only what the stages need. No engine is needed."""

import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from components import PROJECT, USER, container
from components.container import BUILT
from images import torch_wheel
from images.pip_settings import PipSettings
from images.runtime import runtime
from tests.conftest import ROOT

BIN = Path(sys.executable).parent
LOCK = (ROOT / "requirements.lock").read_text()
PROJECT_FILE = (ROOT / "pyproject.toml").read_text()


@pytest.mark.parametrize(
    "command",
    [
        ["hadolint", "images/Dockerfile"],
        ["shellcheck", "images/engine.sh", "images/local-base.sh", ".ci/run"],
    ],
)
def test_linted(command):
    done = subprocess.run(
        [BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_runtime_leaves_out_development_and_torch_only():
    hashes = (ROOT / "requirements-hashes.lock").read_text()
    entries = _entries(runtime(PROJECT_FILE, LOCK, hashes))
    assert set(entries) < set(_entries(hashes)) and len(entries) > 50
    pins = re.findall(r"^\w.*", LOCK, flags=re.MULTILINE)
    kept = {_normal(entry.split()[0]) for entry in entries}
    dropped = {_normal(pin).partition("==")[0] for pin in pins if _normal(pin) not in kept}
    extra = tomllib.loads(PROJECT_FILE)["project"]["optional-dependencies"]["dev"]
    assert dropped == {requirement.lower() for requirement in extra} | {"torch"}


def test_project_and_user_are_the_ones_in_the_code():
    """Files that cannot import repeat the two constants of `components/__init__.py`."""
    docker = (ROOT / "images" / "Dockerfile").read_text()
    assert re.findall(r"^USER (.*)$", docker, re.MULTILINE) == [f"{USER}:{USER}"]
    assert f"ARG IMAGE={PROJECT}\n" in docker and f"image.title={PROJECT} " in docker
    assert tomllib.loads(PROJECT_FILE)["project"]["name"] == PROJECT
    assert f"TAG ?= {BUILT}\n" in (ROOT / "Makefile").read_text()
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["title"] == PROJECT


def test_users_and_labels_of_the_manifests():
    """The judge is another project's image, with a user of its own."""
    texts = {path: path.read_text() for path in (ROOT / "manifests").rglob("*.yaml")}
    users = {
        int(number)
        for path, text in texts.items()
        if path.name != "judge.yaml"
        for number in re.findall(r"(?:runAsUser|runAsGroup|fsGroup): (\d+)", text)
    }
    labels = {name for text in texts.values() for name in re.findall(r"part-of: ([\w-]+)", text)}
    # A namespace that Kubeflow's profile controller is to fill wears a label of Kubeflow's own, and
    # a policy knows the controller of Kubeflow's Trainer by its label.
    assert users == {USER} and labels == {PROJECT, "kubeflow-profile", "kubeflow"}


def test_license():
    """The licence by name wherever it is named, and its text."""
    project = tomllib.loads(PROJECT_FILE)["project"]
    assert project["license"] == "Apache-2.0" and project["license-files"] == ["LICENSE"]
    text = (ROOT / "LICENSE").read_bytes()
    assert hashlib.sha256(text).hexdigest().startswith("cfc7749b96f63bd3")  # apache.org's own
    assert "image.licenses=Apache-2.0 " in (ROOT / "images" / "Dockerfile").read_text()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["license"] == "Apache-2.0" and citation["version"] == project["version"]


def test_every_package_but_torch_has_its_hashes():
    """The file with the hashes holds the pins of the other two."""
    alone = (ROOT / "requirements-alone.lock").read_text()
    pins = re.findall(r"^\w.*", LOCK + alone, flags=re.MULTILINE)
    assert pins and all(pin.count("==") == 1 for pin in pins)
    entries = _entries((ROOT / "requirements-hashes.lock").read_text())
    assert len(entries) == len(pins) - 1
    hashed = {_normal(entry.split()[0]) for entry in entries}
    assert hashed == {_normal(pin) for pin in pins if not pin.startswith("torch==")}


@pytest.mark.parametrize(
    "lock",
    ["requirements-hashes.lock", "images/requirements-build.lock", "images/requirements-cuda.lock"],
)
def test_a_lock_with_hashes_has_one_or_more_of_every_pin(lock):
    entries = _entries((ROOT / lock).read_text())
    assert entries
    for entry in entries:
        pin, *hashes = [word for word in entry.split() if word != "\\"]
        assert pin.count("==") == 1 and hashes
        assert all(re.fullmatch("--hash=sha256:[0-9a-f]{64}", one) for one in hashes)


def test_the_image_installs_by_hash():
    """All that pip installs in the image, but torch, whose builds come from several indexes."""
    docker = (ROOT / "images" / "Dockerfile").read_text().replace("\\\n", " ")
    installs = re.findall(r"(?:pip|\{pip\}) install ([^&]*)", docker)
    assert len(installs) == 3
    for options in installs:
        assert "--require-hashes" in options or "torch==" in options


def _entries(lock):
    return re.split(r"^(?=\w)", lock, flags=re.MULTILINE)[1:]


def _normal(pin):
    return re.sub(r"[-_.]+", "-", pin.partition("==")[0]).lower() + "==" + pin.partition("==")[2]


def test_pip_settings(tmp_path):
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("certificate")
    settings = PipSettings.parse(
        f":env:.cert='{bundle}'\n"
        "global.cert='/elsewhere.pem'\n"
        "global.index-url='https://user:secret@index.example/simple'\n"
        "global.extra-index-url='file:///here https://more.example/simple'\n"
        "global.find-links='/wheels'\n"
    )
    settings.write(tmp_path)
    assert (tmp_path / "ca").read_text() == "certificate"
    assert (tmp_path / "pip").read_text() == (
        "[global]\n"
        "index-url = https://user:secret@index.example/simple\n"
        "extra-index-url = https://more.example/simple\n"
        "cert = /run/secrets/ca\n"
    )


def test_pip_settings_where_there_are_none(tmp_path):
    PipSettings.parse("").write(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["pip"]
    assert (tmp_path / "pip").read_text() == "[global]\n"


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (["filelock", "sympy>=1.13.3"], False),
        (['nvidia-nccl-cu13==2.29.7; platform_system == "Linux"'], True),
        (['cuda-toolkit[cublas]==13.0.3; platform_system == "Plan9"'], False),
    ],
)
def test_cuda_build_is_told_apart(wanted, expected):
    assert torch_wheel.is_cuda({"requires_dist": wanted}) == expected


def test_image_of_the_components(tmp_path):
    pinned = tmp_path / "pinned.txt"
    assert container.image({}, pinned) == "llada-reasoning:dev"
    pinned.write_text("registry.example/llada-reasoning@sha256:12\n")
    assert container.image({}, pinned) == "registry.example/llada-reasoning@sha256:12"
    assert container.image({"IMAGE": "mine:1"}, pinned) == "mine:1"


@pytest.mark.parametrize(
    ("module", "arguments", "words"),
    [
        ("build", ["--flavour", "gpu"], ["FLAVOUR='gpu'", "cpu, cuda"]),
        ("build", [], ["no Docker engine answers at unix:///nowhere.sock", "images/engine.sh"]),
        ("push", ["--registry", ""], ["REGISTRY='',", "HOST[:PORT][/PATH]"]),
        ("push", ["--registry", "https://a.example"], ["REGISTRY='https://a.example',"]),
        ("component", ["train"], ["STAGE='train'", "sft, "]),
        ("component", ["sft"], ["no Docker engine answers at unix:///nowhere.sock"]),
    ],
)
def test_bad_input(module, arguments, words, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    command = [sys.executable, "-m", f"images.{module}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    for word in words:
        assert word in line
