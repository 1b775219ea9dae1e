"""Whether the pods of a run can hold it: the memory of every stage, against its placement.

The formula is `model.training.sizing`. No data is read, so a prompt's length is assumed; what a
dialogue or a pair may hold is `max_length`.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from components.download.config import DownloadConfig
from components.dpo.config import DpoConfig
from components.evaluate.config import EvaluateConfig
from components.grpo.config import GrpoConfig
from components.preflight.config import Recipe
from components.pretrain.config import PretrainConfig
from components.sft.config import SftConfig
from model.training.config import Optimization
from model.training.sizing import Run, Shape, memory, rollout_memory

GIB = 1 << 30
PROMPT = 256  # tokens before an answer, an assumption
PROCESS = GIB  # bytes of Python and its libraries in a process without a GPU
USABLE = 0.95  # of a GPU's memory: the rest is CUDA's own, and fragments
CPU_SLICE = 8 << 20  # bytes of logits that the cross entropy of a CPU holds
VIEWS = {"one_pass": 1, "complementary": 3}  # passes of an estimate that takes no number of them
KINDS = {"evaluate_base": "evaluate"}  # stages of a recipe that run in pods of another's kind
# What the published configurations say, for where their files cannot be read.
PUBLISHED = {
    "GSAI-ML/LLaDA-8B-Base": Shape(),
    "GSAI-ML/LLaDA-8B-Instruct": Shape(),
    "GSAI-ML/LLaDA-1.5": Shape(),
    "GSAI-ML/iLLaDA-8B-Base": Shape(kv_width=1024, hidden=14336, vocabulary=155136, tied=True),
    "GSAI-ML/iLLaDA-8B-Instruct": Shape(kv_width=1024, hidden=14336, vocabulary=155136, tied=True),
}


class Limits(NamedTuple):
    """What the pod of a stage has."""

    memory: float
    """Bytes of its memory."""
    gpus: int = 0
    gpu_memory: float = 0.0
    """Bytes of each of its GPUs."""

    @property
    def usable(self) -> float:
        """Bytes that a process may hold."""
        return USABLE * self.gpu_memory if self.gpus else self.memory - PROCESS


@dataclass(frozen=True)
class Need:
    """What one process of a stage holds."""

    stage: str
    """The field of the recipe."""
    run: Run
    parts: Mapping[str, float]
    """Bytes: weights, adapter, gradients, optimizer, activations, loss and rollout."""

    @property
    def peak(self) -> float:
        """Bytes at most: while an answer is generated no activation is kept, and the reverse."""
        passing = ("activations", "loss")
        lasting = sum(self.parts[name] for name in self.parts if name not in (*passing, "rollout"))
        return lasting + max(sum(self.parts[name] for name in passing), self.parts["rollout"])


def limits_of(text: str) -> dict[str, Limits]:
    """The placement of each stage, as the pipeline hands it to preflight's pod."""
    return {stage: Limits(*values) for stage, values in json.loads(text).items()}


def shape_of(download: DownloadConfig) -> Shape | None:
    """The sizes of the base, where they are known without a download; None where they are not."""
    if download.model == "new":
        return Shape.read(vars(download.shape) | {"vocab_size": download.shape.vocabulary})
    try:
        return Shape.read(json.loads((Path(download.model) / "config.json").read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return PUBLISHED.get(download.model)  # `stage.context_of` complains of a damaged file


def context(base: int | None, recipe: Recipe) -> int | None:
    """The longest sequence in tokens of the trained model; pretraining may extend the base's."""
    return getattr(recipe.pretrain, "context", None) or base


def needs(
    recipe: Recipe, shape: Shape, limits: Mapping[str, Limits], context: int | None
) -> Iterator[Need]:
    """The memory of every stage that holds a model in a process, in their order.

    `context` is the longest sequence in tokens of the trained model, None where it is not known.
    """
    for name, config in vars(recipe).items():
        if isinstance(config, Optimization):
            run = run_of(config, limits[name].gpus, context)
            yield Need(name, run, {**memory(shape, run), "rollout": _rollout(config, shape, run)})
        elif isinstance(config, EvaluateConfig):
            gpus = limits[KINDS.get(name, name)].gpus
            run = Run(length=_bounded(PROMPT + config.gen_length, context), bf16=gpus > 0)
            parts = dict.fromkeys(memory(shape, run), 0.0)
            parts["weights"] = shape.parameters * (2.0 if run.bf16 else 4.0)
            yield Need(name, run, {**parts, "rollout": _rollout(config, shape, run)})


def run_of(config: Optimization, gpus: int, context: int | None) -> Run:
    """How a stage's configuration trains in a process to each GPU, or in one on a CPU."""
    adapter, objective = config.lora, getattr(config, "objective", None)
    twice = 2 if objective is not None and objective.complementary else 1
    general: dict[str, Any] = {"slice_bytes": CPU_SLICE} if not gpus else {}
    if adapter is not None:
        general |= {"targets": adapter.targets, "quantized": adapter.quantized}
    return Run(
        length=_bounded(_length(config), context),
        sequences=twice * config.micro_batch_size * _rows(config),
        views=_views(config),
        rank=None if adapter is None else adapter.rank,
        checkpointing=config.activation_checkpointing,
        processes=max(gpus, 1),
        shard=getattr(config, "parallel", None) == "shard",
        bf16=config.precision != "fp32" if gpus else config.precision == "bf16",
        flash=gpus > 0,
        **general,
    )


def does_not_fit(limits: Mapping[str, Limits], held: Iterable[Need]) -> Iterator[str]:
    """Complains of stages whose pod cannot hold them."""
    for need in held:
        limit = limits[KINDS.get(need.stage, need.stage)]
        if need.peak > limit.usable:
            large = {name: size for name, size in need.parts.items() if size > need.peak / 20}
            parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in large.items())
            where = "a GPU of its placement" if limit.gpus else "the pod of its placement"
            yield (
                f"{need.stage} needs {need.peak / GIB:.1f} GiB of memory ({parts}), allowed: up to "
                f"{limit.usable / GIB:.1f}, {where}"
            )


def indivisible(recipe: Recipe, limits: Mapping[str, Limits]) -> Iterator[str]:
    """Complains of batches that the processes of a stage, one to a GPU, cannot share out."""
    for name, config in vars(recipe).items():
        processes = limits[name].gpus if name in limits else 0
        if isinstance(config, Optimization) and processes > 1:
            unit = config.micro_batch_size * processes
            if config.batch_size % unit:
                yield (
                    f"{name}.batch_size={config.batch_size}, allowed: a multiple of {unit}, "
                    f"micro_batch_size times {processes} processes"
                )


def _rollout(config: Any, shape: Shape, run: Run) -> float:
    """Bytes of the answers that a stage generates together, 0 where it generates none."""
    if isinstance(config, GrpoConfig):
        answers = config.batch_size // run.processes
    elif isinstance(config, EvaluateConfig):
        answers = config.batch_size * (2 if config.cfg_scale else 1)
    else:
        return 0.0
    return rollout_memory(shape, answers, run.length, config.block_length, bf16=run.bf16)


def _bounded(length: int, context: int | None) -> int:
    return length if context is None else min(length, context)


def _length(config: Optimization) -> int:
    """Tokens of a sequence at most."""
    if isinstance(config, PretrainConfig):
        return config.window
    if isinstance(config, GrpoConfig):
        return PROMPT + config.gen_length
    assert isinstance(config, SftConfig | DpoConfig), "every training stage has a length"
    return config.max_length


def _rows(config: Optimization) -> int:
    """Sequences that an example of a micro-batch is: a pair has two, and SFT's loss a third."""
    return (3 if config.sft_weight else 2) if isinstance(config, DpoConfig) else 1


def _views(config: Optimization) -> int:
    """Passes whose activations are kept together."""
    if not isinstance(config, GrpoConfig):
        return 1
    return VIEWS.get(config.estimator, config.passes)
