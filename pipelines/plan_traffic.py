"""The bytes that each task of a run takes from the store, writes to it and keeps on its node.

They follow from the compiled graph: which outputs each task takes, and how large these are. An
artifact is fetched whole before its task starts and uploaded after it, so that both lie on the
node's disk meanwhile. A base in `download.mirror` is read where it is, and lies on no node's disk
but that of the download, which fetches it from the Hub.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from components.download import mirror
from components.preflight.config import Recipe
from components.preflight.memory import run_of
from model.training.config import Optimization
from model.training.sizing import adapter_parameters
from pipelines.plan_base import Base
from pipelines.stages import stages as ordered

Graph = Mapping[str, Any]
Sizes = Mapping[str, int]
MODEL = "download.model"


@dataclass(frozen=True)
class Traffic:
    """What one task moves, in bytes."""

    task: str
    taken: int
    written: int
    disk: int
    """Bytes on the node's disk at the end."""


def traffic(spec: Graph, recipe: Recipe, base: Base, data: int) -> list[Traffic]:
    """Every task of a compiled pipeline in which the recipe's own kind of alignment runs."""
    sizes = outputs(recipe, base, data)
    other = {"dpo", "grpo"} - {recipe.preference}
    order = [stage.key for stage in ordered(spec)]
    root = spec["root"]["dag"]["tasks"]
    tasks = dict(_tasks(spec, root, {}, sizes, other))
    home = recipe.download.mirror
    if home is not None:
        held = dict(_tasks(spec, root, {}, {**sizes, MODEL: 0}, other))
        tasks = {key: dataclasses.replace(task, disk=held[key].disk) for key, task in tasks.items()}
        tasks["download"] = _download(tasks["download"], recipe.download.model, home, base.size)
    return [tasks[key] for key in sorted(tasks, key=order.index)]


def _download(task: Traffic, model: str, home: str, size: int) -> Traffic:
    """The download of a base that is mirrored, or, below the mirror, read once where it is."""
    if not mirror.holds(home, model):
        return dataclasses.replace(task, disk=task.disk + size)
    is_remote = not home.startswith("/")
    return dataclasses.replace(
        task,
        taken=task.taken + (size if is_remote else 0),
        written=task.written - (size if is_remote else 0),
    )


def outputs(recipe: Recipe, base: Base, data: int) -> dict[str, int]:
    """Bytes of the outputs that count, as `stage.output`; all others are small.

    A base that is mounted goes through no store; one that is mirrored to s3:// is read from it by
    every task, like an artifact.
    """
    model = base.size
    is_mounted = (recipe.download.mirror or "").startswith("/")
    sizes = {"download.dataset": data, MODEL: 0 if is_mounted else model}
    for name, config in vars(recipe).items():
        if isinstance(config, Optimization):
            full = config.lora is None
            trained = (
                base.parameters if full else adapter_parameters(base.shape, run_of(config, 0, None))
            )
            sizes[f"{name}.trained"] = 4 * trained
            model = max(model, 4 * trained if full else 0)
    return {**sizes, "merge.model": model, "release.release": model}


def _tasks(
    spec: Graph, tasks: Graph, given: Sizes, sizes: Sizes, other: set[str]
) -> Iterator[tuple[str, Traffic]]:
    """The key and the bytes of every task, but for those of the other kind of alignment."""
    stages = {key: _stage(spec, task) for key, task in tasks.items()}
    for key, task in tasks.items():
        component = spec["components"][task["componentRef"]["name"]]
        taken = {
            name: _size(source, given, stages, sizes)
            for name, source in task.get("inputs", {}).get("artifacts", {}).items()
        }
        if "dag" in component:
            inner = component["dag"]["tasks"]
            aligned = {"dpo", "grpo"} & set(_all_stages(spec, inner))
            if not aligned or aligned - other:
                yield from _tasks(spec, inner, taken, sizes, other)
        elif stages[key] not in other:
            names = component.get("outputDefinitions", {}).get("artifacts", {})
            written = sum(sizes.get(f"{stages[key]}.{name}", 0) for name in names)
            label = task.get("taskInfo", {}).get("name") or key
            total = sum(taken.values())
            yield key, Traffic(label, total, written, disk=total + written)


def _size(source: Graph, given: Sizes, stages: Mapping[str, str], sizes: Sizes) -> int:
    """Bytes of an input: another task's output, or what the graph around was given."""
    if "taskOutputArtifact" in source:
        place = source["taskOutputArtifact"]
        return sizes.get(f"{stages[place['producerTask']]}.{place['outputArtifactKey']}", 0)
    return given.get(source.get("componentInputArtifact", ""), 0)


def _stage(spec: Graph, task: Graph) -> str:
    """The stage of a task; empty for a condition."""
    component = spec["components"][task["componentRef"]["name"]]
    if "dag" in component:
        return ""
    executor = spec["deploymentSpec"]["executors"][component["executorLabel"]]
    return str(executor["container"]["command"][2]).removeprefix("components.")


def _all_stages(spec: Graph, tasks: Graph) -> Iterator[str]:
    for task in tasks.values():
        component = spec["components"][task["componentRef"]["name"]]
        if "dag" in component:
            yield from _all_stages(spec, component["dag"]["tasks"])
        else:
            yield _stage(spec, task)
