"""The evaluate stage as a pipeline component."""

from typing import Any

from kfp.dsl import HTML, Artifact, Dataset, Markdown, Metrics, Model, OutputPath

from components import container


def component(adapters: int = 0) -> Any:
    """The component that takes so many adapters of its model."""
    return container.component(
        "evaluate",
        "Measures exact match on unseen problems with lm_eval.",
        inputs={"model": Model, "dataset": Dataset},
        outputs={"evaluation": Artifact, "metrics": Metrics, "page": HTML, "summary": Markdown},
        parameters={"accuracy": OutputPath(float)},
        adapters=adapters,
    )


evaluate = component()
