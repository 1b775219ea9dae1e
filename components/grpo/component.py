"""The grpo stage as a pipeline component."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output

from components.container import container


@dsl.container_component
def grpo(
    config: dict,
    base: Input[Model],
    dataset: Input[Dataset],
    trained: Output[Model],
    metrics: Output[Metrics],
):
    """Reinforces answers that verify."""
    return container(
        "grpo",
        configs={"config": config},
        inputs={"base": base, "dataset": dataset},
        outputs={"trained": trained, "metrics": metrics},
    )
