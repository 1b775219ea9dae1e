"""The download stage as a pipeline component."""

from kfp import dsl
from kfp.dsl import Dataset, Metrics, Model, Output

from components.container import container


@dsl.container_component
def download(
    config: dict, model: Output[Model], dataset: Output[Dataset], metrics: Output[Metrics]
):
    """Fetches or makes the base model and the data."""
    return container(
        "download",
        configs={"config": config},
        outputs={"model": model, "dataset": dataset, "metrics": metrics},
    )
