"""The pipeline: a base model learns to reason, every step is measured, a good one is released.

    download -> pretrain -> merge -> sft -> merge -> dpo | grpo -> merge -> release
                             |               |                      |
                          evaluate        evaluate               evaluate -> report

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
from components.preflight import component
from components.preflight.config import Recipe
from components.pretrain.component import pretrain
from components.release.component import release
from components.report.component import report
from components.sft.component import sft
from pipelines.form import form
from pipelines.placement import ANYHOW, KEPT, Scheduling, placer


def build(recipe: Recipe, *, profile: str = "small", scheduling: Scheduling = ANYHOW) -> Any:
    """The KFP pipeline with the recipe's values as the defaults of its parameters."""
    graph = _graph(placer(profile, scheduling), component.component(type(recipe)))
    pipeline = dsl.pipeline(name=PROJECT, description=__doc__, pipeline_config=KEPT)
    return pipeline(form(recipe)(graph))


def _graph(place: Callable[..., Any], preflight: Callable[..., Any]) -> Callable[..., None]:
    def llada(**configs: Any) -> None:
        """A base model learns to reason."""
        checked = place(preflight(**configs))
        config = SimpleNamespace(**configs)
        # Ordering only: nothing may start before preflight has passed.
        source = place(download(config=config.download).after(checked)).outputs
        dataset = source["dataset"]

        def merged(name: str, base: Any, trained: Any) -> Any:
            task = merge(config=config.merge, base=base, trained=trained)
            return place(task, name=f"merge {name}").outputs["model"]

        def evaluated(name: str, model: Any, how: Any = config.evaluate) -> dict[str, Any]:
            task = evaluate(config=how, model=model, dataset=dataset)
            return place(task, name=f"evaluate {name}").outputs

        pretrained = place(
            pretrain(config=config.pretrain, base=source["model"], dataset=dataset)
        ).outputs
        base = merged("pretrain", source["model"], pretrained["trained"])
        base_evaluation = evaluated("base", base, config.evaluate_base)["evaluation"]

        tuned = place(sft(config=config.sft, base=base, dataset=dataset)).outputs
        reasoner = merged("sft", base, tuned["trained"])
        sft_evaluation = evaluated("sft", reasoner)["evaluation"]

        # Each branch has its own end: kfp.local neither joins branches nor nests pipelines in them.
        def finish(method: str, aligned: dict[str, Any]) -> None:
            model = merged(method, reasoner, aligned["trained"])
            result = evaluated(method, model)
            place(
                report(
                    config=config.report,
                    pretrain_metrics=pretrained["metrics"],
                    sft_metrics=tuned["metrics"],
                    preference_metrics=aligned["metrics"],
                    base_evaluation=base_evaluation,
                    sft_evaluation=sft_evaluation,
                    aligned_evaluation=result["evaluation"],
                ),
                name=f"report {method}",
            )
            with dsl.If(result["accuracy"] >= checked.outputs["release_accuracy"], name="good"):
                end = release(config=config.release, model=model, evaluation=result["evaluation"])
                place(end, name=f"release {method}")

        with dsl.If(config.preference == "dpo", name="dpo"):
            finish("dpo", place(dpo(config=config.dpo, base=reasoner, dataset=dataset)).outputs)
        with dsl.Else(name="grpo"):
            finish("grpo", place(grpo(config=config.grpo, base=reasoner, dataset=dataset)).outputs)

    return llada
