"""The merge stage as a pipeline component."""

from kfp import dsl
from kfp.dsl import Input, Metrics, Model, Output

from components.container import container


@dsl.container_component
def merge(
    config: dict,
    base: Input[Model],
    trained: Input[Model],
    model: Output[Model],
    metrics: Output[Metrics],
):
    """Writes a full model from a base and the adapter or model trained on it."""
    return container(
        "merge",
        configs={"config": config},
        inputs={"base": base, "trained": trained},
        outputs={"model": model, "metrics": metrics},
    )
