"""The pipeline: a base model learns to reason, and every step is measured.

    download -> pretrain -> merge -> sft -> merge -> dpo | grpo -> merge
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
from components.report.component import report as report_stage
from components.sft.component import sft as sft_stage
from pipelines.placement import place
from pipelines.recipes import Recipe


def build(recipe: Recipe) -> Any:
    """The KFP pipeline with the recipe's values as the defaults of its parameters."""
    return dsl.pipeline(name="llada-reasoning", description=__doc__)(_graph(**_defaults(recipe)))


def _graph(**given: Any) -> Callable[..., None]:
    def llada(
        preference: str = given["preference"],
        download: dict = given["download"],
        pretrain: dict = given["pretrain"],
        merge: dict = given["merge"],
        sft: dict = given["sft"],
        dpo: dict = given["dpo"],
        grpo: dict = given["grpo"],
        evaluate: dict = given["evaluate"],
        report: dict = given["report"],
    ) -> None:
        checked = place(
            preflight(
                download=download,
                pretrain=pretrain,
                merge=merge,
                sft=sft,
                dpo=dpo,
                grpo=grpo,
                evaluate=evaluate,
                report=report,
            )
        )
        # Control only: preflight has nothing to hand on, and everything else follows download.
        source = place(download_stage(config=download).after(checked)).outputs
        dataset = source["dataset"]

        pretrained = place(
            pretrain_stage(config=pretrain, base=source["model"], dataset=dataset)
        ).outputs
        base = _merged(merge, source["model"], pretrained["adapter"])
        base_evaluation = _measured(evaluate, base, dataset)

        tuned = place(sft_stage(config=sft, base=base, dataset=dataset)).outputs
        reasoner = _merged(merge, base, tuned["adapter"])
        sft_evaluation = _measured(evaluate, reasoner, dataset)

        # Each branch ends by itself: kfp.local neither joins branches nor nests pipelines there.
        def finish(aligned: dict[str, Any]) -> None:
            model = _merged(merge, reasoner, aligned["adapter"])
            place(
                report_stage(
                    config=report,
                    pretrain_metrics=pretrained["metrics"],
                    sft_metrics=tuned["metrics"],
                    preference_metrics=aligned["metrics"],
                    base_evaluation=base_evaluation,
                    sft_evaluation=sft_evaluation,
                    aligned_evaluation=_measured(evaluate, model, dataset),
                )
            )

        with dsl.If(preference == "dpo", name="dpo"):
            finish(place(dpo_stage(config=dpo, base=reasoner, dataset=dataset)).outputs)
        with dsl.Else(name="grpo"):
            finish(place(grpo_stage(config=grpo, base=reasoner, dataset=dataset)).outputs)

    return llada


def _merged(config: Any, base: Any, adapter: Any) -> Any:
    return place(merge_stage(config=config, base=base, adapter=adapter)).outputs["model"]


def _measured(config: Any, model: Any, dataset: Any) -> Any:
    return place(evaluate_stage(config=config, model=model, dataset=dataset)).outputs["evaluation"]


def _defaults(recipe: Recipe) -> dict[str, Any]:
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
