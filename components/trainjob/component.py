"""The trainjob stage as a pipeline component."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output

from components.container import container


@dsl.container_component
def trainjob(
    config: dict,
    settings: dict,
    base: Input[Model],
    dataset: Input[Dataset],
    trained: Output[Model],
    metrics: Output[Metrics],
):
    """Runs pretrain or sft on several nodes, as a TrainJob of Kubeflow Trainer."""
    return container(
        "trainjob",
        configs={"config": config, "settings": settings},
        inputs={"base": base, "dataset": dataset},
        outputs={"trained": trained, "metrics": metrics},
    )
