"""The sft stage as a pipeline component."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Metrics, Model, Output

from components.container import container


@dsl.container_component
def sft(
    config: dict,
    base: Input[Model],
    dataset: Input[Dataset],
    trained: Output[Model],
    metrics: Output[Metrics],
):
    """Fine-tunes on dialogues with a thought and a solution."""
    return container(
        "sft",
        configs={"config": config},
        inputs={"base": base, "dataset": dataset},
        outputs={"trained": trained, "metrics": metrics},
    )
