"""Runs every stage in a container on this machine's Docker engine, through KFP's orchestrator.

KFP 2.17.0 starts a container with auto_remove and then waits for it; when the removal wins the race
it reports a container that failed as a success. The handler here follows a container to its end,
reads its exit code and only then removes it. `engine.py` connects to the engine.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError
from docker.models.containers import Container
from docker.models.images import Image
from docker.types import DeviceRequest, Mount
from kfp import local
from kfp.local import docker_task_handler, status

from components import USER, artifact, coerce
from components.container import IMAGE
from components.download.config import DownloadConfig
from model.training.preemption import Stopped, deferred
from pipelines import engine
from pipelines.processes import GRACE, StageFailed, announce, conclude, name_of, say_stopping

CACHE = "/cache"
TRACKERS = ("WANDB_API_KEY", "MLFLOW_TRACKING_URI")
PASSED = (
    *("HF_TOKEN", "HF_ENDPOINT", "WANDB_BASE_URL", "OMP_NUM_THREADS", *TRACKERS),
    *(f"MLFLOW_{name}" for name in ("TRACKING_TOKEN", "TRACKING_USERNAME", "TRACKING_PASSWORD")),
    "MLFLOW_EXPERIMENT_NAME",
)
OFFLINE = {"HF_HUB_OFFLINE": "1"}


class ContainerHandler(docker_task_handler.DockerTaskHandler):
    """Runs a stage's command in its image, the run's directory mounted at its own path."""

    def run(self) -> status.Status:
        """Runs the container; raises StageFailed unless it ends with exit code 0."""
        stage = name_of(self.full_command)
        started = announce(stage)
        client = engine.connect()
        try:
            _hand_over(Path(self.pipeline_root))
            code, reason = self._follow(client, stage, self._arguments(client))
        except APIError as error:
            raise StageFailed(stage, 125, str(error.explanation)) from error
        finally:
            client.close()
        if code:
            raise StageFailed(stage, code, reason)
        conclude(stage, started)
        return status.Status.SUCCESS

    def _arguments(self, client: docker.DockerClient) -> dict[str, Any]:
        """The arguments of `containers.create`: the runner's, and the network, mounts and GPUs."""
        options = dict(self.runner.container_run_args)
        sources = _sources(self.full_command)
        here = [Path(source).absolute() for source in sources if Path(source).exists()]
        online = len(here) < len(sources) or bool({*TRACKERS} & {*self.env_vars})
        if not online:
            options["network_mode"] = "none"
        options["environment"] = self.env_vars if online else {**self.env_vars, **OFFLINE}
        options["volumes"] = self.get_volumes_to_mount(client)
        options["mounts"] = [*options["mounts"], *map(_read_only, here)]
        if "nvidia" in client.info()["Runtimes"]:
            options["device_requests"] = [DeviceRequest(count=-1, capabilities=[["gpu"]])]
        return options

    def _follow(
        self, client: docker.DockerClient, stage: str, options: dict[str, Any]
    ) -> tuple[int, str]:
        """Runs the container, prints its output and returns its exit code, with a reason if known.

        A component's command takes the place of the image's entrypoint, as on a cluster.
        """
        container = None
        try:
            with deferred():
                container = client.containers.create(
                    self.image, entrypoint=self.full_command, **options
                )
            output = container.attach(stdout=True, stderr=True, stream=True, demux=True)
            container.start()
            for out, err in output:
                _write(sys.stdout, out)
                _write(sys.stderr, err)
            return container.wait()["StatusCode"], _reason(container)
        except Stopped:
            if container is not None:
                say_stopping(stage)
                container.stop(timeout=int(GRACE))
            raise
        finally:
            if container is not None:
                container.remove(force=True)


def runner(cache: Path) -> local.DockerRunner:
    """Replaces KFP's handler and returns the runner that uses ours.

    Containers run as this process's user (as the image's user if this is root; the run's files are
    then handed over to it), without capabilities, on a read-only root. `cache` keeps the downloads
    of libraries. Raises EngineError without an engine or image.
    """
    client = engine.connect()
    image = engine.require(client, IMAGE)
    client.close()
    _warn_of_another_commit(image)
    cache.mkdir(parents=True, exist_ok=True)
    _hand_over(cache)
    docker_task_handler.DockerTaskHandler = ContainerHandler
    return local.DockerRunner(
        user=f"{os.getuid() or USER}:{os.getgid() or USER}",
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        tmpfs={"/tmp": "mode=1777"},
        shm_size="1g",
        mounts=[Mount(CACHE, str(cache.resolve()), type="bind")],
        working_dir=str(Path.cwd()),
        environment=_environment(image),
    )


def _hand_over(directory: Path) -> None:
    """If this process is root, gives a directory and its content to the containers' user."""
    if os.getuid() == 0:
        for path in (directory, *directory.rglob("*")):
            os.chown(path, USER, os.getgid() or USER, follow_symlinks=False)


def _warn_of_another_commit(image: Image) -> None:
    """Prints a note if the image was built from another commit than this checkout's."""
    built, here = image.labels.get(engine.REVISION), artifact.commit()
    if built != here:
        text = f"IMAGE={IMAGE} was built from {built}, this checkout is at {here}; make image-build"
        print(f"pipeline: note: {text}", file=sys.stderr)


def _environment(image: Image) -> dict[str, str]:
    """The stage's environment: its image, by digest if there is one, and the variables PASSED."""
    digests = image.attrs["RepoDigests"]
    name = digests[0] if digests else f"{IMAGE}@{image.id}"
    return {"IMAGE": name, **{key: os.environ[key] for key in PASSED if key in os.environ}}


def _sources(command: list[str]) -> list[str]:
    """The sources of a download: paths on this machine, names on the Hub, addresses."""
    if command[2] != "components.download":
        return []
    values = json.loads(command[command.index("--config") + 1])
    config = coerce.build(DownloadConfig, values)
    rows = [source.location for source in config.sources if source.location]
    return [name for name in (config.model, config.dataset, *rows) if name not in (None, "new")]


def _read_only(path: Path) -> Mount:
    return Mount(str(path), str(path), type="bind", read_only=True)


def _write(stream: Any, content: bytes | None) -> None:
    if content:
        stream.flush()
        stream.buffer.write(content)
        stream.buffer.flush()


def _reason(container: Container) -> str:
    container.reload()
    return "out of memory" if container.attrs["State"]["OOMKilled"] else ""
