"""The pipeline: a base model learns to reason, every step is measured, a good one is released.

    download -> pretrain -> merge -> sft -> merge -> dpo | grpo -> merge -> release
                             |               |                      |
                          evaluate        evaluate               evaluate -> report

A training stage may be off, and the graph is built from the others. Pretraining and SFT alone end
as alignment does: evaluated, reported and, if good, released.

`recipes/` says how the stages are configured, `form.py` how a run's form shows it, and
`placement.py` where the stages run.
"""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from kfp import dsl

from components import PROJECT
from components.download.component import download
from components.dpo.component import dpo
from components.evaluate.component import evaluate
from components.grpo.component import grpo
from components.merge.component import merge
from components.preflight import component as preflight
from components.preflight.config import Recipe
from components.pretrain.component import pretrain
from components.release.component import release
from components.report import component as drawing
from components.sft.component import sft
from pipelines.form import constants, form
from pipelines.placement import ANYHOW, KEPT, Scheduling, placer


def build(recipe: Recipe, *, profile: str = "small", scheduling: Scheduling = ANYHOW) -> Any:
    """The KFP pipeline with the recipe's values as the defaults of its parameters."""
    checks = preflight.component(type(recipe), constants(recipe))
    graph = _graph(recipe, placer(profile, scheduling), checks)
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
        model, dataset = source["model"], source["dataset"]
        figures: dict[str, Any] = {}  # what the report draws, by its inputs' names

        def trained(name: str, stage: Callable[..., Any], base: Any) -> tuple[Any, Any]:
            """The merged model that a training stage makes of a base, and its metrics."""
            task = stage(config=getattr(config, name), base=base, dataset=dataset)
            outputs = place(task).outputs
            task = merge(config=config.merge, base=base, trained=outputs["trained"])
            return place(task, name=f"merge {name}").outputs["model"], outputs["metrics"]

        def evaluated(name: str, model: Any, how: Any) -> dict[str, Any]:
            task = evaluate(config=how, model=model, dataset=dataset)
            return place(task, name=f"evaluate {name}").outputs

        if recipe.pretrain is not None:
            model, figures["pretrain_metrics"] = trained("pretrain", pretrain, model)
        result = evaluated("base", model, config.evaluate_base)
        figures["base_evaluation"] = result["evaluation"]

        if recipe.sft is not None:
            model, figures["sft_metrics"] = trained("sft", sft, model)
            result = evaluated("sft", model, config.evaluate)
            figures["sft_evaluation"] = result["evaluation"]

        # Each branch has its own end: kfp.local neither joins branches nor nests pipelines in them.
        def end(name: str, model: Any, result: dict[str, Any], figures: dict[str, Any]) -> None:
            draw = drawing.component(figures)
            place(draw(config=config.report, **figures), name=f"report {name}")
            with dsl.If(result["accuracy"] >= checked.outputs["release_accuracy"], name="good"):
                task = release(config=config.release, model=model, evaluation=result["evaluation"])
                place(task, name=f"release {name}")

        def align(name: str) -> None:
            aligned, metrics = trained(name, {"dpo": dpo, "grpo": grpo}[name], model)
            result = evaluated(name, aligned, config.evaluate)
            ours = {"preference_metrics": metrics, "aligned_evaluation": result["evaluation"]}
            end(name, aligned, result, {**figures, **ours})

        match recipe.methods:
            case ():
                end(recipe.last, model, result, figures)
            case (method,):
                align(method)
            case _:
                with dsl.If(config.preference == "dpo", name="dpo"):
                    align("dpo")
                with dsl.Else(name="grpo"):
                    align("grpo")

    return llada
