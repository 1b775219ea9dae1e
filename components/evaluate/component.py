"""The evaluate stage as a pipeline component."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Markdown, Metrics, Model, Output

from components.container import container


@dsl.container_component
def evaluate(
    config: dict,
    model: Input[Model],
    dataset: Input[Dataset],
    evaluation: Output[Artifact],
    metrics: Output[Metrics],
    page: Output[HTML],
    summary: Output[Markdown],
    accuracy: dsl.OutputPath(float),  # type: ignore[valid-type]
):
    """Measures exact match on unseen problems with lm_eval."""
    return container(
        "evaluate",
        configs={"config": config},
        inputs={"model": model, "dataset": dataset},
        outputs={
            "evaluation": evaluation,
            "metrics": metrics,
            "page": page,
            "summary": summary,
        },
        parameters={"accuracy": accuracy},
    )
