"""Connects to this machine's Docker engine and finds an image, or says in one line what to do.

`containers.py` runs the stages in it.
"""

import os
from collections.abc import Iterator

import docker
from docker.errors import DockerException, ImageNotFound
from docker.models.images import Image

from components.container import BUILT

SOCKET = "unix:///var/run/docker.sock"
REVISION = "org.opencontainers.image.revision"


class EngineError(ValueError):
    """The engine cannot be reached or lacks an image; the text says what to try next."""


def connect() -> docker.DockerClient:
    """A client of the engine that DOCKER_HOST names. Raises EngineError when none answers."""
    host = os.environ.get("DOCKER_HOST", SOCKET)
    try:
        client = docker.from_env()
        client.ping()
    except DockerException as error:
        raise EngineError(f"{_explain(error, host)}, or use RUNNER=process") from error
    return client


def _explain(error: BaseException, host: str) -> str:
    """What is wrong and what to try, judged by the operating system's error below Docker's."""
    for cause in _causes(error):
        if isinstance(cause, PermissionError):
            return (
                f"no permission on the Docker engine's socket {host}; join its group with "
                "`sudo usermod -aG docker $USER` and log in again"
            )
        if isinstance(cause, FileNotFoundError | ConnectionRefusedError):
            return (
                f"no Docker engine answers at {host}; start it with `sudo systemctl start docker` "
                "or, on Debian, install it with `sudo images/engine.sh`"
            )
    return f"no Docker engine at DOCKER_HOST={host}: {error}; unset or mend DOCKER_HOST"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def require(client: docker.DockerClient, image: str) -> Image:
    """The image of that name. Raises EngineError when the engine does not have it; never pulls."""
    try:
        return client.images.get(image)
    except ImageNotFound as error:
        remedy = "make image-build" if image == BUILT else f"docker pull {image}"
        raise EngineError(f"no image IMAGE={image} on this engine; try `{remedy}`") from error
