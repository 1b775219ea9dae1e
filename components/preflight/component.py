"""The preflight stage as a pipeline component."""

from kfp import dsl

from components.container import container


@dsl.container_component
def preflight(
    preference: str,
    download: dict,
    pretrain: dict,
    merge: dict,
    sft: dict,
    dpo: dict,
    grpo: dict,
    evaluate: dict,
    evaluate_base: dict,
    report: dict,
    release: dict,
    release_accuracy: dsl.OutputPath(float),  # type: ignore[valid-type]
):
    """Builds every configuration, so that a bad value fails before anything is trained."""
    return container(
        "preflight",
        configs={
            "preference": preference,
            "download": download,
            "pretrain": pretrain,
            "merge": merge,
            "sft": sft,
            "dpo": dpo,
            "grpo": grpo,
            "evaluate": evaluate,
            "evaluate_base": evaluate_base,
            "report": report,
            "release": release,
        },
        parameters={"release_accuracy": release_accuracy},
    )
