"""The report stage as a pipeline component: with the inputs that a pipeline has."""

from collections.abc import Iterable
from typing import Any

from kfp.dsl import HTML, Artifact, Markdown, Metrics

from components import container

INPUTS = {
    "pretrain_metrics": Metrics,
    "sft_metrics": Metrics,
    "preference_metrics": Metrics,
    "base_evaluation": Artifact,
    "sft_evaluation": Artifact,
    "aligned_evaluation": Artifact,
}


def component(names: Iterable[str]) -> Any:
    """The component that takes these of the stage's inputs."""
    return container.component(
        "report",
        "Draws the run: curves, accuracy by stage, answers as they denoise.",
        inputs={name: INPUTS[name] for name in names},
        outputs={"report": Artifact, "metrics": Metrics, "page": HTML, "summary": Markdown},
    )


report = component(INPUTS)
