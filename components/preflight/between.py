"""What must hold between the stages: lengths, the context that holds them, and the data.

Pure functions; what the base's context is comes from the stage.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from components.download.config import DownloadConfig
from components.grpo.config import GrpoConfig
from components.preflight.config import Preference
from components.pretrain.config import PretrainConfig
from components.sft.config import SftConfig
from model.training.config import Optimization


class Context(NamedTuple):
    """The longest sequence in tokens, and which setting says so; null where it is not known."""

    tokens: int | None
    origin: str


def refuse(*complaints: Iterator[str]) -> None:
    """Raises ValueError of one line with every complaint, so that all are mended at once."""
    found = [complaint for some in complaints for complaint in some]
    if found:
        raise ValueError("; ".join(found))


def lengths(base: Context, configs: dict[str, Any]) -> Iterator[str]:
    """Complains of what is longer than the context: the base's, or what pretraining makes of it.

    Both branches of the alignment are asked, since a run's form offers both.
    """
    pretrain: PretrainConfig = configs["pretrain"]
    context = base
    if pretrain.context is not None:
        if base.tokens is not None and pretrain.context < base.tokens:
            yield _complaint(
                "pretrain.context", pretrain.context, f"{base.tokens} (the base's own) or more"
            )
        context = Context(pretrain.context, "pretrain.context")
    if context.tokens is None:
        return
    for stage, field in (("pretrain", "window"), ("sft", "max_length"), ("dpo", "max_length")):
        length = getattr(configs[stage], field)
        if length > context.tokens:
            allowed = f"up to {context.tokens} (the context of {context.origin})"
            yield _complaint(f"{stage}.{field}", length, allowed)
    for stage in ("grpo", "evaluate", "evaluate_base"):
        length = configs[stage].gen_length
        if length >= context.tokens:  # a prompt stands before the answer
            allowed = f"below {context.tokens} (the context of {context.origin})"
            yield _complaint(f"{stage}.gen_length", length, allowed)


def data(preference: Preference, configs: dict[str, Any]) -> Iterator[str]:
    """Complains of parts of the dataset that nothing gives, and of ones held out whole."""
    download: DownloadConfig = configs["download"]
    if not download.sources:
        return
    aligned = "preferences" if preference == "dpo" else "problems"
    for part in ("pretrain", "sft", aligned, "test"):
        if download.dataset is None and not getattr(download, part):
            yield _complaint(f"download.{part}", [], "sources of every part, or download.dataset")
    for stage, part in (("sft", "sft"), ("dpo", "preferences")):
        held, most = configs[stage].validation_examples, download.examples
        if most is not None and getattr(download, part) and held >= most:
            yield _complaint(
                f"{stage}.validation_examples", held, f"below {most} (download.examples)"
            )


def doubts(configs: dict[str, Any]) -> Iterator[str]:
    """What a run survives, and nobody is likely to have meant."""
    for stage, config in configs.items():
        if isinstance(config, Optimization) and config.warmup_steps > _updates(config):
            yield (
                f"{stage}.warmup_steps={config.warmup_steps} with {_updates(config)} updates: "
                "the learning rate never reaches its peak"
            )
    sft: SftConfig = configs["sft"]
    for stage in ("grpo", "evaluate"):
        if configs[stage].gen_length > sft.max_length:
            yield (
                f"{stage}.gen_length={configs[stage].gen_length} with sft.max_length="
                f"{sft.max_length}: answers may become longer than any that was learnt"
            )
    if configs["grpo"].gen_length != configs["evaluate"].gen_length:
        yield (
            f"grpo.gen_length={configs['grpo'].gen_length} with evaluate.gen_length="
            f"{configs['evaluate'].gen_length}: answers are rewarded and judged at other lengths"
        )


def _updates(config: Optimization) -> int:
    """Optimizer steps of the whole run, of which GRPO makes several a batch."""
    if not isinstance(config, GrpoConfig):
        return config.steps
    minibatches = config.batch_size // (config.minibatch_size or config.batch_size)
    return config.steps * config.inner_updates * minibatches


def _complaint(name: str, value: object, allowed: str) -> str:
    return f"{name}={value!r}, allowed: {allowed}"
