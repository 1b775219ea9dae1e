"""The merge stage as a pipeline component."""

from typing import Any

from kfp.dsl import Metrics, Model

from components import container


def component(adapters: int = 0) -> Any:
    """The component that takes so many adapters beside the last, on which that was trained."""
    return container.component(
        "merge",
        "Writes a full model from a base and the adapters trained on it.",
        inputs={"base": Model, "trained": Model},
        outputs={"model": Model, "metrics": Metrics},
        adapters=adapters,
    )


merge = component()
