"""The release stage as a pipeline component."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Metrics, Model, Output

from components.container import container


@dsl.container_component
def release(
    config: dict,
    model: Input[Model],
    evaluation: Input[Artifact],
    release: Output[Model],
    metrics: Output[Metrics],
):
    """Copies a model that is accurate enough, with a card that says what it is."""
    return container(
        "release",
        configs={"config": config},
        inputs={"model": model, "evaluation": evaluation},
        outputs={"release": release, "metrics": metrics},
    )
