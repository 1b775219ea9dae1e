"""The evaluate stage as a pipeline component."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output

from components.container import container


@dsl.container_component
def evaluate(
    config: dict,
    model: Input[Model],
    dataset: Input[Dataset],
    evaluation: Output[Artifact],
    metrics: Output[Metrics],
):
    """Measures exact match on unseen problems with lm_eval."""
    return container(
        "evaluate",
        configs={"config": config},
        inputs={"model": model, "dataset": dataset},
        outputs={"evaluation": evaluation, "metrics": metrics},
    )
