"""Mends conditions on the outputs of tasks of the same graph in `kfp.local` 2.17.0.

KFP names such an output `<task>-<output>`. Its local runner looks only among the inputs of the
graph (or for an output called "Output"), finds nothing, warns, and takes the condition to be false.
"""

from typing import Any

from kfp.local.io import IOStore
from kfp.local.orchestrator.enhanced_dag_orchestrator import ConditionEvaluator

_inputs_of_the_graph = ConditionEvaluator._resolve_pipeline_channel


def mend() -> None:
    """Makes local conditions see the outputs of the tasks before them, in this process."""
    ConditionEvaluator._resolve_pipeline_channel = staticmethod(value)  # type: ignore[method-assign]


def value(reference: str, store: IOStore) -> Any:
    """The value of a condition's operand."""
    name = reference.removeprefix("pipelinechannel--")
    for task, outputs in store._task_output_data.items():
        for key, output in outputs.items():
            if name == f"{task}-{key}":
                return output
    return _inputs_of_the_graph(reference, store)
