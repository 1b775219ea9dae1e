"""A recipe as a rehearsal runs it: random weights of its shape, made-up data, two steps a stage.

All else stays as the recipe has it: arithmetic, adapters, estimators, caches and rewards. With a
scale below 1, widths, layers, lengths and ranks shrink by it.
"""

from dataclasses import replace
from math import lcm
from pathlib import Path
from typing import Any

from components.data.config import Sample, Source
from components.download.config import DownloadConfig, Shape
from components.dpo.config import DpoConfig
from components.evaluate.config import EvaluateConfig
from components.grpo.config import GrpoConfig
from components.preflight.config import Recipe
from components.pretrain.config import PretrainConfig
from components.rewards.config import JudgeConfig
from components.sft.config import SftConfig
from model.options import Lora
from model.training.config import Resumable
from pipelines.plan_base import Base

STEPS = 2
REQUESTS = 10  # that each evaluation asks
THETA = 500_000.0  # LLaDA-8B's base of the rotary frequencies


def rehearsed(recipe: Recipe, base: Base, scale: float, folder: Path, judge: str) -> Recipe:
    """The recipe to rehearse below `folder`, whose answers the judge at a URL compares.

    Random weights never solve a problem, and answers of equal reward teach GRPO nothing: without
    a judge that tells them apart its update would not run.
    """
    size = Scale(scale)
    changed: dict[str, Any] = {"download": _download(recipe.download, base, size, folder)}
    for name, config in vars(recipe).items():
        if isinstance(config, Resumable):
            changed[name] = _training(config, size, folder, judge)
        elif isinstance(config, EvaluateConfig):
            changed[name] = _evaluation(config, size)
    release = replace(recipe.release, accuracy=0.0, task=None)
    return replace(recipe, release=release, **changed)


class Scale:
    """Multiplies whole numbers by the scale, and keeps them above a least one."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, number: int, least: int = 1) -> int:
        return number if self.factor == 1 else max(round(number * self.factor), min(least, number))


def _download(own: DownloadConfig, base: Base, size: Scale, folder: Path) -> DownloadConfig:
    data: dict[str, Any] = {
        part: (Source(location=str(folder / f"{part}.jsonl"), verifier="math"),)
        for part in ("pretrain", "sft", "preferences", "problems", "test")
    }
    return replace(
        own,
        model="new",
        revision=None,
        mirror=None,
        cache=None,
        shape=shape(base, size, own.shape.rope_theta if own.model == "new" else THETA),
        dataset=None,
        dataset_revision=None,
        held_out=(),
        sample=Sample(min_tokens=1, long_share=0.0, quality=False),
        examples=None,
        **data,
    )


def shape(base: Base, size: Scale, theta: float = THETA) -> Shape:
    """The base's shape, with whole heads of their own width."""
    own = base.shape
    head, heads = own.width // own.heads, size(own.heads)
    groups = max(1, round(heads * own.kv_width / own.width))
    while heads % groups:
        groups -= 1
    return Shape(
        d_model=head * heads,
        n_layers=size(own.layers),
        n_heads=heads,
        n_kv_heads=groups,
        mlp_hidden_size=size(own.hidden, 32),
        vocabulary=size(own.vocabulary, 300),
        context=size(base.context or 4096, 128),
        weight_tying=own.tied,
        precision="bf16" if base.size <= 2 * base.parameters else "fp32",
        rope_theta=theta,
    )


def _training(config: Resumable, size: Scale, folder: Path, judge: str) -> Resumable:
    """Two steps of two micro-batches, each kept."""
    changes: dict[str, Any] = {}
    if isinstance(config, PretrainConfig):
        changes = _longer(config, size)
    elif isinstance(config, SftConfig | DpoConfig):
        changes = {"max_length": size(config.max_length, 96)}
    if isinstance(config, SftConfig):
        changes["examples"] = None
    if isinstance(config, DpoConfig):
        changes |= {"draws": size(config.draws, 2), "reference_cache": None}
    if isinstance(config, GrpoConfig):
        changes = _rewarded(config, size, judge)
    else:
        micro = size(config.micro_batch_size)
        changes |= {"micro_batch_size": micro, "batch_size": 2 * micro}
        changes["validation_examples"] = 0
    return replace(
        config,
        steps=STEPS,
        warmup_steps=min(config.warmup_steps, 1),
        lora=_adapter(config.lora, size),
        checkpoint_uri=str(folder / "checkpoints"),
        checkpoint_steps=1,
        **changes,
    )


def _longer(config: PretrainConfig, size: Scale) -> dict[str, Any]:
    """A window and a context that keep their relation to the base's."""
    objective = config.objective
    if objective.curriculum is not None:
        original = size(objective.curriculum.original_context, 64)
        curriculum = replace(objective.curriculum, original_context=original)
        objective = replace(objective, curriculum=curriculum)
    context = None if config.context is None else size(config.context, 128)
    return {"window": size(config.window, 64), "context": context, "objective": objective}


def _rewarded(config: GrpoConfig, size: Scale, judge: str) -> dict[str, Any]:
    """Two groups or more, of answers that fill a canvas."""
    micro = config.micro_batch_size
    batch = lcm(micro, config.group) * (2 if micro <= config.group else 1)
    length = size(config.gen_length, 16)
    return {
        "batch_size": batch,
        "minibatch": None if config.minibatch is None else batch,
        "inner_updates": size(config.inner_updates, 2),
        "gen_length": length,
        "block_length": min(config.block_length, length),
        "judge": JudgeConfig(url=judge, model="rehearsal", weight=1.0),
    }


def _adapter(adapter: Lora | None, size: Scale) -> Lora | None:
    return None if adapter is None else replace(adapter, rank=size(adapter.rank, 4))


def _evaluation(config: EvaluateConfig, size: Scale) -> EvaluateConfig:
    """Ten requests of the dataset's own test, with the recipe's way of sampling."""
    length = size(config.gen_length, 16)
    block = min(config.block_length, length)
    return replace(
        config,
        tasks=("test",),
        preset=None,
        task_files=(),
        fewshot=None,
        limit=REQUESTS,
        gen_length=length,
        block_length=block,
        steps=None if config.steps is None else max(size(config.steps), -(-length // block)),
    )
