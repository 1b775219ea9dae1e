"""The tables of docs/recipes.md, made from the recipes and from the formula of docs/sizing.md.

`python -m tests.pipelines.recipe_page` writes them; a test compares them.
"""

import dataclasses
import re
from pathlib import Path

from components.data.config import Entry, Source
from components.preflight.config import TRAINING
from model.training.sizing import Run, Shape, seconds_per_token
from model.training.throughput import PEAKS
from pipelines import plan, plan_base
from pipelines.overrides import override
from pipelines.recipes import RECIPES

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"
BLOCK = "<!-- {} -->\n{}<!-- end -->"
MADE = re.compile(r"<!-- (\w+) -->\n.*?<!-- end -->", re.DOTALL)
OFF = "-"
STAGES = ("download", "pretrain", "sft", "dpo", "grpo", "evaluate", "evaluate_base")
END = ("report", "release")

GSM8K, BOTH, MATH500 = 1319, 1819, 500
EVAL_MD = "[EVAL.md](https://github.com/ML-GSAI/LLaDA/blob/main/EVAL.md)"
D1 = "[d1](https://arxiv.org/abs/2504.12216), table 1"
ILLADA = "[iLLaDA](https://arxiv.org/abs/2606.25331), tables 2 and 3"
JUST = "[JustGRPO](https://github.com/LeapLabTHU/JustGRPO)"
EXPECTED = (
    ("llada_8b", "base", "GSM8K, 5 examples, 1024 tokens", 70.3, GSM8K, EVAL_MD),
    ("llada_8b", "base", "MATH, 1024 tokens", 31.4, 5000, EVAL_MD),
    ("llada_8b", "SFT", "as LLaDA-8B-Instruct, on other data: GSM8K", 78.9, GSM8K, EVAL_MD),
    ("llada_8b", "GRPO", "", None, 0, ""),
    ("llada_8b", "DPO", "as LLaDA 1.5, on other data: GSM8K", 83.6, GSM8K, EVAL_MD),
    ("llada_8b_instruct", "base", "GSM8K, 256 tokens, block 8", 78.9, GSM8K, EVAL_MD),
    ("llada_8b_instruct", "base", "MATH, 512 tokens, block 64", 42.7, 5000, EVAL_MD),
    ("llada_8b_instruct", "SFT", "", None, 0, ""),
    ("llada_8b_instruct", "GRPO", "the best so far, JustGRPO: GSM8K, 512", 89.8, GSM8K, JUST),
    ("llada_8b_instruct", "GRPO", "the best so far, JustGRPO: MATH-500, 512", 45.2, MATH500, JUST),
    ("llada_1_5", "base", "GSM8K, 256 tokens, block 16", 83.6, GSM8K, EVAL_MD),
    ("llada_1_5", "base", "MATH, 1024 tokens, block 128", 42.3, 5000, EVAL_MD),
    ("llada_1_5", "GRPO", "", None, 0, ""),
    ("illada_8b", "base", "GSM8K, 1024 tokens, block 32", 81.9, GSM8K, ILLADA),
    ("illada_8b", "base", "MATH, 1024 tokens, block 32", 38.4, 5000, ILLADA),
    ("illada_8b", "SFT", "as iLLaDA-8B-Instruct, on other data: GSM8K", 89.0, GSM8K, ILLADA),
    ("illada_8b", "GRPO", "", None, 0, ""),
    ("llada_8b_d1", "base", "GSM8K, no examples, 256 tokens", 76.7, GSM8K, D1),
    ("llada_8b_d1", "SFT", "the same", 78.8, GSM8K, D1),
    ("llada_8b_d1", "GRPO alone (`sft=null`)", "the same", 79.8, GSM8K, D1),
    ("llada_8b_d1", "GRPO", "the same", 81.1, GSM8K, D1),
)
"""Recipe, stage, what was measured, percent, problems, source; None where nothing is published."""

GPUS = 8  # of each training stage in a plan
PROMPT = 200  # tokens of a prompt; d1 cuts prompts there
SHAPES = {"illada_8b": Shape(kv_width=1024, hidden=14336, vocabulary=155136, tied=True)}
ROLLOUT = 672.0  # tokens/s of 16 requests at once on an H200 (benchmarks/RESULTS.md)
SCORED = 10 / 6
"""Work of a token in DPO and GRPO beside a training step: also the policy's own pass and that of
the reference, without gradients."""


def expected():
    """What is published about each stage, with the standard error of that many problems."""
    head = "| recipe | stage | measured | published, % | standard error | source |\n"
    rows = [
        f"| `{recipe}` | {stage} | {what or OFF} | "
        + (f"{score} | {_error(score, count):.1f} | {source} |" if score else "nothing | | |")
        for recipe, stage, what, score, count, source in EXPECTED
    ]
    return head + "|---|---|---|---|---|---|\n" + "\n".join(rows) + "\n"


def _error(score, count):
    return (score * (100 - score) / count) ** 0.5


def cost():
    """Tokens and hours of each stage that trains, at most, on one H100."""
    lines = ["| recipe | stage | tokens, millions | hours |", "|---|---|---|---|"]
    for name, build in RECIPES.items():
        if name == "tiny":
            continue
        for stage, tokens, hours in _work(build(), SHAPES.get(name, Shape())):
            lines.append(f"| `{name}` | {stage} | {tokens / 1e6:,.0f} | {hours:,.0f} |")
    return "\n".join(lines) + "\n"


def _work(recipe, shape):
    """Stage, tokens and hours: as if every sequence had its greatest length."""
    if recipe.pretrain:
        yield _trained("pretrain", recipe.pretrain, recipe.pretrain.window, shape)
    if recipe.sft:
        yield _trained("sft", recipe.sft, recipe.sft.max_length, shape)
    if recipe.dpo:
        answers = 2 * recipe.dpo.draws
        yield _trained("dpo", recipe.dpo, recipe.dpo.max_length, shape, answers, SCORED)
    if grpo := recipe.grpo:
        length = PROMPT + grpo.gen_length
        yield _trained("grpo, updates", grpo, length, shape, grpo.inner_updates, SCORED)
        tokens = grpo.steps * grpo.batch_size * grpo.gen_length
        yield "grpo, rollouts", tokens, tokens / ROLLOUT / 3600


def _trained(stage, config, length, shape, times=1, share=1.0):
    run = Run(length=length, rank=config.lora.rank, targets=config.lora.targets)
    tokens = config.steps * config.batch_size * times * length
    return stage, tokens, tokens * share * seconds_per_token(shape, run, PEAKS["H100"]) / 3600


def plans():
    """The plan of each recipe with GRPO on eight GPUs of 80 GB, without what its data take."""
    head = (
        "| recipe | hours | GPU hours | most memory of a GPU, GiB | fits 76 GiB "
        "| from the store, GB | to the store, GB | most on a node's disk, GB "
        "| checkpoints at a time, GB |"
    )
    lines, doubts = [head, "|---" * 9 + "|"], []
    for name, build in RECIPES.items():
        if name == "tiny":
            continue
        recipe = _keeping(build())
        base = plan_base.published(recipe.download.model)
        own = plan.computed(name, recipe, "gpu", GPUS, base, {})
        lines.append(f"| `{name}` | {' | '.join(_figures(own))} |")
        doubts += [f"- `{name}`: {doubt}" for doubt in own.warnings]
    return "\n".join([*lines, "", "The plans' warnings:", "", *(doubts or ["- none"])]) + "\n"


def _keeping(recipe):
    """The recipe with checkpoints, as `submit --checkpoints` sends it."""
    on = [stage for stage in TRAINING if getattr(recipe, stage)]
    return override(recipe, [f"{stage}.checkpoint_uri=s3://bucket/checkpoints" for stage in on])


def _figures(own):
    """The cells of a plan."""
    yield f"{sum(stage.hours for stage in own.stages):,.0f}"
    yield f"{sum(stage.hours * stage.gpus for stage in own.stages):,.0f}"
    yield f"{max(stage.need.peak for stage in own.stages) / (1 << 30):,.1f}"
    yield "yes" if all(stage.fits for stage in own.stages) else "no"
    for size in (
        sum(task.taken for task in own.traffic),
        sum(task.written for task in own.traffic),
        max(task.disk for task in own.traffic),
        sum(stage.checkpoint * stage.kept for stage in own.stages),
    ):
        yield f"{size / 1e9:,.0f}"


def fields():
    """Every field of every recipe: a table a stage, a column a recipe."""
    recipes = {name: build() for name, build in RECIPES.items()}
    return "\n".join(_table(stage, recipes) for stage in (*STAGES, *END))


def _table(stage, recipes):
    columns = {name: dict(_flat(getattr(recipe, stage))) for name, recipe in recipes.items()}
    longest = sorted(columns.values(), key=len, reverse=True)
    names = dict.fromkeys(path for column in longest for path in column)
    head = f"### {stage}\n\n| field | {' | '.join(f'`{name}`' for name in columns)} |\n"
    rows = [
        f"| `{path}` | {' | '.join(column.get(path, OFF) for column in columns.values())} |\n"
        for path in names
    ]
    return head + "|---" * (len(columns) + 1) + "|\n" + "".join(rows)


def _flat(config, prefix=""):
    """Path and text of every field; a configuration that is null is one field."""
    for field in dataclasses.fields(config) if config is not None else ():
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _flat(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", _shown(value)


def _shown(value):
    if value is None:
        return "null"
    if isinstance(value, tuple):
        return ", ".join(_shown(item) for item in value) or "none"
    if isinstance(value, Source):
        return value.label + (f" x{value.weight:g}" if value.weight != 1 else "")
    if isinstance(value, Entry):
        return value.name
    return str(value).replace("|", "\\|")


TABLES = {"expected": expected, "plans": plans, "cost": cost, "fields": fields}


def page(text):
    """The page with today's tables."""
    return MADE.sub(lambda match: BLOCK.format(match[1], TABLES[match[1]]()), text)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
