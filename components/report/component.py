"""The report stage as a pipeline component: with the inputs that a pipeline has."""

from collections.abc import Iterable
from inspect import Parameter
from typing import Any

from kfp import dsl
from kfp.dsl import HTML, Artifact, Input, Markdown, Metrics, Output

from components.container import container
from components.signature import signed

INPUTS = {
    "pretrain_metrics": Metrics,
    "sft_metrics": Metrics,
    "preference_metrics": Metrics,
    "base_evaluation": Artifact,
    "sft_evaluation": Artifact,
    "aligned_evaluation": Artifact,
}
OUTPUTS = {"report": Artifact, "metrics": Metrics, "page": HTML, "summary": Markdown}


def component(names: Iterable[str]) -> Any:
    """The component that takes these of the stage's inputs."""
    hints: dict[str, Any] = {"config": dict}
    hints |= {name: Input[INPUTS[name]] for name in names}
    hints |= {name: Output[kind] for name, kind in OUTPUTS.items()}
    parameters = [
        Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, annotation=hint)
        for name, hint in hints.items()
    ]

    @dsl.container_component
    @signed(parameters)
    def report(*, config: Any, **artifacts: Any) -> dsl.ContainerSpec:
        """Draws the run: curves, accuracy by stage, answers as they denoise."""
        return container(
            "report",
            configs={"config": config},
            inputs={name: artifacts[name] for name in names},
            outputs={name: artifacts[name] for name in OUTPUTS},
        )

    return report


report = component(INPUTS)
