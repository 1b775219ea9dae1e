"""The report stage as a pipeline component."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Input, Markdown, Metrics, Output

from components.container import container


@dsl.container_component
def report(
    config: dict,
    pretrain_metrics: Input[Metrics],
    sft_metrics: Input[Metrics],
    preference_metrics: Input[Metrics],
    base_evaluation: Input[Artifact],
    sft_evaluation: Input[Artifact],
    aligned_evaluation: Input[Artifact],
    report: Output[Artifact],
    metrics: Output[Metrics],
    page: Output[HTML],
    summary: Output[Markdown],
):
    """Draws the run: curves, accuracy by stage, answers as they denoise."""
    return container(
        "report",
        configs={"config": config},
        inputs={
            "pretrain_metrics": pretrain_metrics,
            "sft_metrics": sft_metrics,
            "preference_metrics": preference_metrics,
            "base_evaluation": base_evaluation,
            "sft_evaluation": sft_evaluation,
            "aligned_evaluation": aligned_evaluation,
        },
        outputs={"report": report, "metrics": metrics, "page": page, "summary": summary},
    )
