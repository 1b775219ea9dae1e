"""The pipeline: a base model learns to reason, every step is measured, a good one is released.

    download -> pretrain -> sft -> dpo | grpo -> merge -> release
                   |         |          |
                evaluate  evaluate   evaluate -> report

A training stage may be off, and the graph is built from the others. A stage that trains an adapter
hands on that alone: the next one takes the same base and all adapters so far, and only the last
model is merged.

`recipes/` says how the stages are configured, `form.py` how a run's form shows it, and
`placement.py` where the stages run.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from kfp import dsl

from components import PROJECT
from components.download.component import download
from components.dpo import component as dpo
from components.evaluate import component as evaluate
from components.grpo import component as grpo
from components.merge import component as merge
from components.preflight import component as preflight
from components.preflight.config import Recipe
from components.pretrain import component as pretrain
from components.release.component import release
from components.report import component as report
from components.sft import component as sft
from pipelines.form import constants, form
from pipelines.placement import ANYHOW, KEPT, Scheduling, on_volume
from pipelines.placing import placer
from pipelines.weights import Weights

STAGES = {
    "pretrain": pretrain.component,
    "sft": sft.component,
    "dpo": dpo.component,
    "grpo": grpo.component,
}


def build(recipe: Recipe, *, profile: str = "small", scheduling: Scheduling = ANYHOW) -> Any:
    """The KFP pipeline with the recipe's values as the defaults of its parameters."""
    checks = preflight.component(type(recipe), constants(recipe))
    place = placer(profile, scheduling, volume=on_volume(recipe.download))
    graph = _graph(recipe, place, checks)
    pipeline = dsl.pipeline(name=PROJECT, description=__doc__, pipeline_config=KEPT)
    return pipeline(form(recipe)(graph))


def _graph(
    recipe: Recipe, place: Callable[..., Any], check: Callable[..., Any]
) -> Callable[..., None]:
    def llada(**configs: Any) -> None:
        """A base model learns to reason."""
        checked = place(check(**configs))
        config = SimpleNamespace(**configs)
        # Ordering only: nothing may start before preflight has passed.
        source = place(download(config=config.download).after(checked)).outputs
        model, dataset = Weights(source["model"]), source["dataset"]
        drawn: dict[str, Any] = {}  # the artifacts that the report takes

        def trained(stage: str, model: Weights) -> tuple[Weights, Any]:
            settings = getattr(config, stage)
            task = place(model.into(STAGES[stage], config=settings, dataset=dataset))
            after = model.after(task.outputs["trained"], getattr(recipe, stage))
            return after, task.outputs["metrics"]

        def evaluated(name: str, model: Weights, settings: Any) -> dict[str, Any]:
            task = model.into(evaluate.component, role="model", config=settings, dataset=dataset)
            return place(task, name=f"evaluate {name}").outputs

        def merged(name: str, model: Weights) -> Any:
            if not model.adapters:
                return model.base
            *earlier, last = model.adapters
            before = Weights(model.base, tuple(earlier))
            task = before.into(merge.component, config=config.merge, trained=last)
            return place(task, name=f"merge {name}").outputs["model"]

        if recipe.pretrain is not None:
            model, drawn["pretrain_metrics"] = trained("pretrain", model)
        result = evaluated("base", model, config.evaluate_base)
        drawn["base_evaluation"] = result["evaluation"]

        if recipe.sft is not None:
            model, drawn["sft_metrics"] = trained("sft", model)
            result = evaluated("sft", model, config.evaluate)
            drawn["sft_evaluation"] = result["evaluation"]

        # Each branch has its own end: kfp.local neither joins branches nor nests pipelines in them.
        def end(name: str, model: Weights, result: dict[str, Any], drawn: dict[str, Any]) -> None:
            task = report.component(drawn)(config=config.report, **drawn)
            place(task, name=f"report {name}")
            whole = merged(name, model)
            with dsl.If(result["accuracy"] >= checked.outputs["release_accuracy"], name="good"):
                task = release(config=config.release, model=whole, evaluation=result["evaluation"])
                place(task, name=f"release {name}")

        def align(method: str) -> None:
            aligned, metrics = trained(method, model)
            result = evaluated(method, aligned, config.evaluate)
            own = {"preference_metrics": metrics, "aligned_evaluation": result["evaluation"]}
            end(method, aligned, result, {**drawn, **own})

        match recipe.methods:
            case ():
                end(recipe.last, model, result, drawn)
            case (method,):
                align(method)
            case _:
                with dsl.If(config.preference == "dpo", name="dpo"):
                    align("dpo")
                with dsl.Else(name="grpo"):
                    align("grpo")

    return llada
