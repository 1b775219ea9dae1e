"""What must hold between the configurations of several stages: lengths, the context, the data.

Pure functions: they read no file. The stage says how long the base model's context is.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from components.data import catalogue
from components.grpo.config import GrpoConfig
from components.preflight.config import Recipe
from model.training.config import Optimization


class Context(NamedTuple):
    """The longest sequence in tokens, None where it is not known, and the setting that says so."""

    tokens: int | None
    origin: str


def refuse(*checks: Iterator[str]) -> None:
    """Raises ValueError with the complaints of all checks in one line, to be mended at once."""
    complaints = [complaint for check in checks for complaint in check]
    if complaints:
        raise ValueError("; ".join(complaints))


def lengths(base: Context, recipe: Recipe) -> Iterator[str]:
    """Complains of lengths beyond the context: the base model's, or that of the pretrained one.

    Both kinds of alignment are checked, since a run's form offers both.
    """
    pretrain, context = recipe.pretrain, base
    if pretrain is not None and pretrain.context is not None:
        if base.tokens is not None and pretrain.context < base.tokens:
            yield complaint(
                "pretrain.context", pretrain.context, f"{base.tokens} (the base's own) or more"
            )
        context = Context(pretrain.context, "pretrain.context")
    if context.tokens is None:
        return
    for stage, field in (("pretrain", "window"), ("sft", "max_length"), ("dpo", "max_length")):
        length = getattr(getattr(recipe, stage), field, 0)  # 0 where the stage is off
        if length > context.tokens:
            allowed = f"up to {context.tokens} (the context of {context.origin})"
            yield complaint(f"{stage}.{field}", length, allowed)
    for stage in ("grpo", "evaluate", "evaluate_base"):
        length = getattr(getattr(recipe, stage), "gen_length", 0)
        if length >= context.tokens:  # the prompt needs at least one position
            allowed = f"below {context.tokens} (the context of {context.origin})"
            yield complaint(f"{stage}.gen_length", length, allowed)


def data(recipe: Recipe) -> Iterator[str]:
    """Complains of parts of the dataset that have no source, or no example left to train on.

    Sums are made for those alone who say so: nobody trains a published model on them by mistake.
    """
    download = recipe.download
    if not download.sources:
        if download.dataset is None and download.made is None:
            yield complaint("download.dataset", None, 'a dataset, sources, or made="sums"')
        return
    for part in catalogue.KINDS:
        try:
            catalogue.resolve_all(part, getattr(download, part), download.catalogue)
        except ValueError as error:
            yield f"download.{error}"
    try:
        catalogue.resolve_all("test", download.held_out, download.catalogue, "held_out")
    except ValueError as error:
        yield f"download.{error}"
    for part in _parts(recipe):
        if download.dataset is None and not getattr(download, part):
            yield complaint(f"download.{part}", [], "sources of every part, or download.dataset")
    for stage, part in (("sft", "sft"), ("dpo", "preferences")):
        held_out = getattr(getattr(recipe, stage), "validation_examples", 0)
        most = download.examples
        if most is not None and getattr(download, part) and held_out >= most:
            yield complaint(
                f"{stage}.validation_examples", held_out, f"below {most} (download.examples)"
            )


def _parts(recipe: Recipe) -> Iterator[str]:
    """The parts of the dataset that the stages of a run read."""
    if recipe.pretrain is not None:
        yield "pretrain"
    if recipe.sft is not None:
        yield "sft"
    if recipe.methods:
        yield "preferences" if recipe.preference == "dpo" else "problems"
    yield "test"


def scores(recipe: Recipe) -> Iterator[str]:
    """Complains of models that are evaluated on different tasks, and of a gate by another task."""
    tasks, base = recipe.evaluate.tasks, recipe.evaluate_base.tasks
    if base != tasks:
        yield complaint("evaluate_base.tasks", list(base), f"{list(tasks)} (evaluate.tasks)")
    task = recipe.release.task
    if task is not None and task != tasks[0]:
        yield complaint("release.task", task, f"null or {tasks[0]!r} (the first of evaluate.tasks)")


def outputs(recipe: Recipe, graph: Mapping[str, Any]) -> Iterator[str]:
    """Complains of stages that train an adapter where the graph has a whole model, or the reverse.

    Which of both a later stage takes is decided when a pipeline is compiled.
    """
    expected = graph.get("adapters", recipe.adapters)
    for stage in sorted({*expected} ^ {*recipe.adapters}):
        known = "an adapter" if stage in expected else "null"
        allowed = f"{known}, for which this pipeline was compiled; compile it with the other"
        adapter = getattr(getattr(recipe, stage), "lora", None)  # null where the stage is off
        yield complaint(f"{stage}.lora", adapter, allowed)


def doubts(recipe: Recipe) -> Iterator[str]:
    """Settings that stop no run, but that hardly anybody can have meant."""
    for stage, config in vars(recipe).items():
        if isinstance(config, Optimization) and config.warmup_steps > _updates(config):
            yield (
                f"{stage}.warmup_steps={config.warmup_steps} with {_updates(config)} updates: "
                "the learning rate never reaches its peak"
            )
    grpo, sft, evaluate = recipe.grpo, recipe.sft, recipe.evaluate
    lengths = {"grpo": grpo.gen_length} if grpo else {}
    longest = sft.max_length if sft else math.inf
    for stage, length in {**lengths, "evaluate": evaluate.gen_length}.items():
        if length > longest:
            yield (
                f"{stage}.gen_length={length} with sft.max_length={longest}: "
                "answers may become longer than any that was learnt"
            )
    if grpo and grpo.gen_length != evaluate.gen_length:
        yield (
            f"grpo.gen_length={grpo.gen_length} with evaluate.gen_length="
            f"{evaluate.gen_length}: answers are rewarded and evaluated at different lengths"
        )


def complaint(name: str, value: object, allowed: str) -> str:
    """One setting that is refused, as `model.options.check` words it."""
    return f"{name}={value!r}, allowed: {allowed}"


def _updates(config: Optimization) -> int:
    """Optimizer steps of the whole run; GRPO takes several of them for every batch."""
    if not isinstance(config, GrpoConfig):
        return config.steps
    minibatches = config.batch_size // (config.minibatch or config.batch_size)
    return config.steps * config.inner_updates * minibatches
