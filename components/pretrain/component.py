"""The pretrain stage as a pipeline component."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output

from components.container import container


@dsl.container_component
def pretrain(
    config: dict,
    base: Input[Model],
    dataset: Input[Dataset],
    trained: Output[Model],
    metrics: Output[Metrics],
):
    """Continues masked-diffusion pretraining on plain text."""
    return container(
        "pretrain",
        configs={"config": config},
        inputs={"base": base, "dataset": dataset},
        outputs={"trained": trained, "metrics": metrics},
    )
