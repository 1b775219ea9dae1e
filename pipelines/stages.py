"""The stages of a compiled pipeline in the order of its graph, under their display names.

Every stage knows the graphs that it is within, so that an answer of the server about a run, which
speaks of keys such as `merge-2`, can be told in the words of `llada.py`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Spec = Mapping[str, Any]
PLAIN = "system-container-impl"
RETRIED = f"retry-{PLAIN}"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A task that starts a pod."""

    key: str
    """Its name in the compiled pipeline, of which there is one."""
    name: str
    """Its display name."""
    graphs: tuple[str, ...]
    """Keys of the conditions that it is within, the outermost first."""
    template: str
    """The Argo template of its pods, which is part of their names."""


def stages(spec: Spec) -> list[Stage]:
    """All stages of a compiled pipeline, each after those that it depends on.

    Raises ValueError where the document is no compiled pipeline.
    """
    # A server stores the pipeline beside its Kubernetes settings, a file has it as a document.
    pipeline = spec.get("pipeline_spec", spec)
    try:
        return list(_stages(pipeline["components"], pipeline["root"]["dag"]["tasks"], ()))
    except (KeyError, TypeError, AttributeError):
        raise ValueError("the pipeline's version holds no compiled pipeline") from None


def _stages(
    components: Mapping[str, Any], tasks: Mapping[str, Any], graphs: tuple[str, ...]
) -> Iterator[Stage]:
    for key in _ordered(tasks):
        component = components[tasks[key]["componentRef"]["name"]]
        if "dag" in component:
            yield from _stages(components, component["dag"]["tasks"], (*graphs, key))
        else:
            name = tasks[key].get("taskInfo", {}).get("name") or key
            template = RETRIED if "retryPolicy" in tasks[key] else PLAIN
            yield Stage(key=key, name=name, graphs=graphs, template=template)


def _ordered(tasks: Mapping[str, Any]) -> list[str]:
    """The keys of a graph's tasks, each after its producers, graphs behind stages."""
    order: list[str] = []
    while len(order) < len(tasks):
        free = [
            key
            for key, task in tasks.items()
            if key not in order and set(task.get("dependentTasks", ())) <= {*order}
        ]
        if not free:
            raise KeyError("a graph with a cycle")
        order.append(min(free, key=lambda key: (_depth(tasks, key), _is_graph(tasks, key), key)))
    return order


def _is_graph(tasks: Mapping[str, Any], key: str) -> bool:
    return str(tasks[key]["componentRef"]["name"]).startswith("comp-condition")


def _depth(tasks: Mapping[str, Any], key: str) -> int:
    """How many tasks lie on the longest way from the graph's start to this task."""
    before = [_depth(tasks, other) for other in tasks[key].get("dependentTasks", ())]
    return 1 + max(before, default=0)
