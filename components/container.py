"""A stage as a container. Only this module names the image and builds the command line."""

import os
from collections.abc import Mapping, Sequence
from inspect import Parameter
from pathlib import Path
from typing import Any

from kfp import dsl
from kfp.dsl import Input, Model, Output

from components import PROJECT
from components.signature import signed

BUILT = f"{PROJECT}:dev"
PINNED = Path(__file__).parents[1] / "images" / "pinned.txt"
NONE: Mapping[str, Any] = {}


def image(environment: Mapping[str, str], pinned: Path) -> str:
    """IMAGE of the environment, else the digest that `make image-push` pinned, else BUILT."""
    if name := environment.get("IMAGE"):
        return name
    return pinned.read_text().strip() if pinned.exists() else BUILT


IMAGE = image(os.environ, PINNED)


def component(
    stage: str,
    meaning: str,
    *,
    inputs: Mapping[str, type],
    outputs: Mapping[str, type],
    parameters: Mapping[str, Any] = NONE,
    adapters: int = 0,
) -> Any:
    """The KFP component of a stage that takes so many adapters of its base.

    KFP's container components take no list of artifacts, so every number of adapters has a
    component of its own, with inputs named as by `numbered`.
    """
    chain = tuple(numbered(range(adapters)))
    hints: dict[str, Any] = {"config": dict}
    hints |= {name: Input[kind] for name, kind in inputs.items()}
    hints |= {name: Input[Model] for name in chain}
    hints |= {name: Output[kind] for name, kind in outputs.items()}
    hints |= parameters

    def run(*, config: Any, **values: Any) -> dsl.ContainerSpec:
        return container(
            stage,
            configs={"config": config},
            inputs={name: values[name] for name in inputs},
            adapters=[values[name] for name in chain],
            outputs={name: values[name] for name in outputs},
            parameters={name: values[name] for name in parameters},
        )

    run.__name__, run.__doc__ = stage, meaning
    kind = Parameter.POSITIONAL_OR_KEYWORD
    order = [Parameter(name, kind, annotation=hint) for name, hint in hints.items()]
    return dsl.container_component(signed(order)(run))


def numbered(adapters: Sequence[Any]) -> dict[str, Any]:
    """The adapters of a base in their order, by the names of a component's inputs."""
    return {f"adapter_{number}": adapter for number, adapter in enumerate(adapters)}


def container(
    stage: str,
    *,
    configs: Mapping[str, Any],
    inputs: Mapping[str, Any] = NONE,
    adapters: Sequence[Any] = (),
    outputs: Mapping[str, Any] = NONE,
    parameters: Mapping[str, Any] = NONE,
) -> dsl.ContainerSpec:
    """Runs `python -m components.<stage>`: configurations are JSON, artifacts and parameters paths.

    From the executor input the stage learns where KFP expects its metrics and metadata.
    """
    arguments: list[Any] = []
    for name, config in configs.items():
        arguments += [_flag(name), config]
    for name, artifact in {**inputs, **outputs}.items():
        arguments += [_flag(name), artifact.path]
    if adapters:
        arguments += ["--adapters", *(adapter.path for adapter in adapters)]
    for name, file in parameters.items():
        arguments += [_flag(name), file]
    arguments += ["--executor-input", dsl.PIPELINE_TASK_EXECUTOR_INPUT_PLACEHOLDER]
    return dsl.ContainerSpec(
        image=IMAGE, command=["python", "-m", f"components.{stage}"], args=arguments
    )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
