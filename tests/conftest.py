"""A tiny model and dataset made once by the real download stage, and the stages' command line."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

from components.container import BUILT
from pipelines.engine import EngineError, connect, require
from tests.components import forked

ROOT = Path(__file__).parents[1]
CONTAINERS = ("tests/images/", "tests/pipelines/test_docker")
PIPELINES = "tests/end_to_end/"
# A test is slow if its module, or a helper that it imports, starts programs or servers by one of
# these names, or if it uses one of these fixtures. What is slow for another reason says so itself:
# `pytestmark = pytest.mark.slow`.
PROGRAMS = {"stage", "forked", "subprocess", "multiprocessing", "sandbox", "LocalServer"}
STAGES = {"downloaded", "adapted", "taught", "engine", "image", "compiled"}
SERVERS = {"s3", "place", "serve", "real_judge"}


class ByFile(LoadScopeScheduling):
    """A file's tests go to one worker of pytest-xdist; those of all containers to the same one."""

    def _split_scope(self, nodeid):
        file = nodeid.partition("::")[0]
        return "containers" if file.startswith(CONTAINERS) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return ByFile(config, log)


def pytest_collection_modifyitems(items):
    """The longest first: containers, then whole pipelines. Marks what starts programs as slow."""
    for item in items:
        if is_slow(item):
            item.add_marker("slow")
    items.sort(
        key=lambda item: [not item.nodeid.startswith(part) for part in (CONTAINERS, PIPELINES)]
    )


def is_slow(item):
    """Whether a test starts programs or servers, or trains."""
    values = vars(item.module).values()
    helpers = [
        value for value in values if str(getattr(value, "__module__", None)).startswith("tests.")
    ]
    modules = [item.module, *(sys.modules[helper.__module__] for helper in helpers)]
    starts_programs = any(PROGRAMS.intersection(vars(module)) for module in modules)
    uses = (STAGES | SERVERS).intersection(item.fixturenames)
    return bool(starts_programs or uses or item.nodeid.startswith((PIPELINES, "tests/gpu/")))


def stage(name, config=None, check=True, **paths):
    """Runs a stage's command line, in a fork; returns the finished process."""
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder, "output"), Path(folder, "errors")
        process = forked.start(name, config, output=output, errors=errors, **paths)
        process.join()
        texts = output.read_text(), errors.read_text()
    if check:
        assert process.exitcode == 0, texts[1]
    return subprocess.CompletedProcess(name, process.exitcode, *texts)


@pytest.fixture(scope="session")
def downloaded(tmp_path_factory):
    """Directories `model`, `dataset` and `metrics` of a download of a new, very small model."""
    root = tmp_path_factory.mktemp("download")
    shape = {"d_model": 32, "n_layers": 2, "n_heads": 2, "mlp_hidden_size": 64}
    stage(
        "download",
        {"model": "new", "made": "sums", "shape": shape},
        model=root / "model",
        dataset=root / "dataset",
        metrics=root / "metrics",
    )
    return root


@pytest.fixture(scope="session")
def adapted(downloaded, tmp_path_factory):
    """The output of two SFT steps with an adapter on the downloaded model."""
    root = tmp_path_factory.mktemp("sft")
    config = {"steps": 2, "batch_size": 4, "micro_batch_size": 2, "max_length": 64}
    config["lora"] = {"rank": 4, "alpha": 8}
    stage(
        "sft",
        config,
        base=downloaded / "model",
        dataset=downloaded / "dataset",
        trained=root / "trained",
        metrics=root / "metrics",
    )
    return root


@pytest.fixture(scope="session")
def taught(downloaded, tmp_path_factory):
    """A full model that has had a few steps of SFT: enough to give groups of unlike answers."""
    root = tmp_path_factory.mktemp("taught")
    config = {"steps": 60, "batch_size": 16, "micro_batch_size": 16, "max_length": 64}
    stage(
        "sft",
        {**config, "learning_rate": 5e-3},
        base=downloaded / "model",
        dataset=downloaded / "dataset",
        trained=root / "trained",
        metrics=root / "metrics",
    )
    stage(
        "merge",
        base=downloaded / "model",
        trained=root / "trained",
        model=root / "model",
        metrics=root / "merged",
    )
    return root / "model"


@pytest.fixture(scope="session")
def engine():
    """A client of this machine's Docker engine."""
    try:
        client = connect()
    except EngineError as error:
        _unavailable(error)
    yield client
    client.close()


@pytest.fixture(scope="session")
def image(engine):
    """The shared image as `make image-build` leaves it."""
    try:
        return require(engine, BUILT)
    except EngineError as error:
        _unavailable(error)


def _unavailable(error):
    """Skips, and says why; fails where DOCKER=required promises an engine and an image."""
    (pytest.fail if os.environ.get("DOCKER") == "required" else pytest.skip)(f"Docker: {error}")
