"""A step of a pipeline that runs the trainjob stage, and what a job of it leaves behind."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from components import artifact, cli
from components.pretrain.config import PretrainConfig
from tests.conftest import ROOT, stage

SETTINGS = {"steps": 2, "batch_size": 4, "micro_batch_size": 1, "window": 16}
SETTINGS |= {"lora": {"rank": 2, "alpha": 4}}
IMAGE = "registry.example/llada@sha256:12"


def paths_of(manifest):
    arguments = manifest["spec"]["trainer"]["args"][4:]
    pairs = zip(arguments[::2], arguments[1::2], strict=True)
    return {flag[2:]: Path(path) for flag, path in pairs}


def work(manifest, name="pretrain", inputs=("base", "dataset")):
    """What a job leaves behind, made without training."""
    paths = paths_of(manifest)
    for role in ("trained", "metrics"):
        (paths[role] / "deep").mkdir(parents=True)
        (paths[role] / "deep" / "file").write_text(role)
    artifact.record(
        {role: paths[role] for role in ("trained", "metrics")},
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
        self.outputs = {role: folder / "out" / role for role in ("trained", "metrics")}

    def run(self, **changes):
        """Runs it to its end, with fresh outputs as a pod that is started again has them."""
        shutil.rmtree(self.outputs["trained"].parent, ignore_errors=True)
        paths = {**self.inputs, **self.outputs, "settings": json.dumps(self.settings)}
        return stage("trainjob", {**self.config, **changes}, check=False, **paths)

    def run_as_itself(self, **changes):
        """Runs the stage's own command in a pod whose placement names several nodes."""
        nodes = json.dumps({"stage": "pretrain", **self.config, **changes})
        paths = {**self.inputs, **self.outputs, "environment": {cli.TRAINJOB: nodes}}
        return stage("pretrain", self.settings, check=False, **paths)

    def start(self):
        command = [sys.executable, "-m", "components.trainjob", "--config", json.dumps(self.config)]
        paths = {**self.inputs, **self.outputs, "settings": json.dumps(self.settings)}
        for role, path in paths.items():
            command += [f"--{role}", str(path)]
        return subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


def ends(done, code, *words):
    """The exit code, and one line on standard error with all of these words."""
    assert done.returncode == code, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr
