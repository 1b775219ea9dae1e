"""A stage as a container. Only this module names the image and builds the command line."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp import dsl

from components import PROJECT

BUILT = f"{PROJECT}:dev"
PINNED = Path(__file__).parents[1] / "images" / "pinned.txt"


def image(environment: Mapping[str, str], pinned: Path) -> str:
    """IMAGE of the environment, else the digest that `make image-push` pinned, else BUILT."""
    if name := environment.get("IMAGE"):
        return name
    return pinned.read_text().strip() if pinned.exists() else BUILT


IMAGE = image(os.environ, PINNED)


def container(
    stage: str,
    *,
    configs: Mapping[str, Any],
    inputs: Mapping[str, Any] | None = None,
    outputs: Mapping[str, Any] | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> dsl.ContainerSpec:
    """Runs `python -m components.<stage>`: configurations are JSON, artifacts and parameters paths.

    From the executor input the stage learns where KFP expects its metrics and metadata.
    """
    arguments: list[Any] = []
    for name, config in configs.items():
        arguments += [_flag(name), config]
    for name, artifact in {**(inputs or {}), **(outputs or {})}.items():
        arguments += [_flag(name), artifact.path]
    for name, file in (parameters or {}).items():
        arguments += [_flag(name), file]
    arguments += ["--executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER]
    return dsl.ContainerSpec(
        image=IMAGE, command=["python", "-m", f"components.{stage}"], args=arguments
    )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
