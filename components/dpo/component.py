"""The dpo stage as a pipeline component."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output

from components.container import container


@dsl.container_component
def dpo(
    config: dict,
    base: Input[Model],
    dataset: Input[Dataset],
    trained: Output[Model],
    metrics: Output[Metrics],
):
    """Optimizes preferences with variance-reduced ELBOs."""
    return container(
        "dpo",
        configs={"config": config},
        inputs={"base": base, "dataset": dataset},
        outputs={"trained": trained, "metrics": metrics},
    )
