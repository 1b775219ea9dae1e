"""Mends conditions in `kfp.local` 2.17.0: a figure that a task of the same graph gave is found.

KFP names such a figure `<task>-<output>`. Its local runner looks only among the inputs of the graph
(or for an output called "Output"), finds nothing, warns, and takes the condition for false.
"""

from typing import Any

from kfp.local.io import IOStore
from kfp.local.orchestrator.enhanced_dag_orchestrator import ConditionEvaluator

_inputs_of_the_graph = ConditionEvaluator._resolve_pipeline_channel


def mend() -> None:
    """From here on local conditions see the outputs of the tasks before them."""
    ConditionEvaluator._resolve_pipeline_channel = staticmethod(value)  # type: ignore[method-assign]


def value(reference: str, store: IOStore) -> Any:
    """The value of a condition's operand."""
    name = reference.removeprefix("pipelinechannel--")
    for task, outputs in store._task_output_data.items():
        for key, output in outputs.items():
            if name == f"{task}-{key}":
                return output
    return _inputs_of_the_graph(reference, store)
