"""The pipeline: a base model learns to reason, every step is measured, a good one is released.

    download -> pretrain -> merge -> sft -> merge -> dpo | grpo -> merge -> release
                             |               |                      |
                          evaluate        evaluate               evaluate -> report

What a run is stands in `recipes.py`, where it runs in `placement.py`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from kfp import dsl

from components.download.component import download as download_stage
from components.dpo.component import dpo as dpo_stage
from components.evaluate.component import evaluate as evaluate_stage
from components.grpo.component import grpo as grpo_stage
from components.merge.component import merge as merge_stage
from components.preflight.component import preflight
from components.pretrain.component import pretrain as pretrain_stage
from components.release.component import release as release_stage
from components.report.component import report as report_stage
from components.sft.component import sft as sft_stage
from pipelines.placement import placer
from pipelines.recipes import Recipe

NAME = "llada-reasoning"


def build(recipe: Recipe, *, profile: str = "small") -> Any:
    """The KFP pipeline with the recipe's values as the defaults of its parameters."""
    graph = _graph(placer(profile), **arguments(recipe))
    return dsl.pipeline(name=NAME, description=__doc__)(graph)


def _graph(place: Callable[[Any], Any], **given: Any) -> Callable[..., None]:
    def llada(
        preference: str = given["preference"],
        download: dict = given["download"],
        pretrain: dict = given["pretrain"],
        merge: dict = given["merge"],
        sft: dict = given["sft"],
        dpo: dict = given["dpo"],
        grpo: dict = given["grpo"],
        evaluate: dict = given["evaluate"],
        evaluate_base: dict = given["evaluate_base"],
        report: dict = given["report"],
        release: dict = given["release"],
    ) -> None:
        """A base model learns to reason.

        Args:
            preference: How the model is aligned: dpo or grpo.
            download: Base model and data, fetched or made. Fields: components/download/README.md.
            pretrain: Masked-diffusion pretraining. Fields: components/pretrain/README.md.
            merge: Nothing to choose.
            sft: Supervised fine-tuning on worked answers. Fields: components/sft/README.md.
            dpo: Preference optimization, where preference is dpo. Fields: components/dpo/README.md.
            grpo: Reinforced verified answers, where preference is grpo. Fields:
                components/grpo/README.md.
            evaluate: How answers are written and counted. Fields: components/evaluate/README.md.
            evaluate_base: The same for the base, which knows no chat yet.
            report: The page about the run. Fields: components/report/README.md.
            release: How accurate a model must be. Fields: components/release/README.md.
        """
        checked = place(
            preflight(
                preference=preference,
                download=download,
                pretrain=pretrain,
                merge=merge,
                sft=sft,
                dpo=dpo,
                grpo=grpo,
                evaluate=evaluate,
                evaluate_base=evaluate_base,
                report=report,
                release=release,
            )
        )
        # Control only: what preflight hands on is wanted last, and everything follows download.
        source = place(download_stage(config=download).after(checked)).outputs
        dataset = source["dataset"]

        def merged(base: Any, trained: Any) -> Any:
            return place(merge_stage(config=merge, base=base, trained=trained)).outputs["model"]

        def measured(model: Any, config: Any = evaluate) -> dict[str, Any]:
            return place(evaluate_stage(config=config, model=model, dataset=dataset)).outputs

        pretrained = place(
            pretrain_stage(config=pretrain, base=source["model"], dataset=dataset)
        ).outputs
        base = merged(source["model"], pretrained["trained"])
        base_evaluation = measured(base, evaluate_base)["evaluation"]

        tuned = place(sft_stage(config=sft, base=base, dataset=dataset)).outputs
        reasoner = merged(base, tuned["trained"])
        sft_evaluation = measured(reasoner)["evaluation"]

        # Each branch ends by itself: kfp.local neither joins branches nor nests pipelines there.
        def finish(aligned: dict[str, Any]) -> None:
            model = merged(reasoner, aligned["trained"])
            found = measured(model)
            place(
                report_stage(
                    config=report,
                    pretrain_metrics=pretrained["metrics"],
                    sft_metrics=tuned["metrics"],
                    preference_metrics=aligned["metrics"],
                    base_evaluation=base_evaluation,
                    sft_evaluation=sft_evaluation,
                    aligned_evaluation=found["evaluation"],
                )
            )
            with dsl.If(found["accuracy"] >= checked.outputs["release_accuracy"], name="good"):
                place(release_stage(config=release, model=model, evaluation=found["evaluation"]))

        with dsl.If(preference == "dpo", name="dpo"):
            finish(place(dpo_stage(config=dpo, base=reasoner, dataset=dataset)).outputs)
        with dsl.Else(name="grpo"):
            finish(place(grpo_stage(config=grpo, base=reasoner, dataset=dataset)).outputs)

    return llada


def arguments(recipe: Recipe) -> dict[str, Any]:
    """The recipe as the arguments of the pipeline: one JSON object a stage."""
    return {f.name: _as_json(getattr(recipe, f.name)) for f in dataclasses.fields(recipe)}


def _as_json(value: Any) -> Any:
    """A configuration as JSON. KFP has no null, so a field that is None must be None by default."""
    if not dataclasses.is_dataclass(value):
        return [_as_json(item) for item in value] if isinstance(value, tuple) else value
    given = {}
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        assert inner is not None or field.default is None, field.name
        if inner is not None:
            given[field.name] = _as_json(inner)
    return given
