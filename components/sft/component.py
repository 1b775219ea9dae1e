"""The sft stage as a pipeline component."""

from typing import Any

from kfp.dsl import Dataset, Metrics, Model

from components import container


def component(adapters: int = 0) -> Any:
    """The component that takes so many adapters of its base."""
    return container.component(
        "sft",
        "Fine-tunes on dialogues with a thought and a solution.",
        inputs={"base": Model, "dataset": Dataset},
        outputs={"trained": Model, "metrics": Metrics},
        adapters=adapters,
    )


sft = component()
