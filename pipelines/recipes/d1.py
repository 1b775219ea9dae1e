"""d1 (arXiv:2504.12216): LLaDA-8B-Instruct learns from s1K, and then by diffu-GRPO on GSM8K.

The settings are those of its code, github.com/dllm-reasoning/d1 at 837888f, which its authors put
above the paper where the two differ (issue 9 there). What this pipeline does in another way is
listed in docs/recipes.md. The groups are functions, since other recipes take some of them.
"""

import dataclasses
from typing import Any

from components.data import catalogue
from components.data.config import Entry, Source
from components.download.config import DownloadConfig
from components.evaluate.config import EvaluateConfig
from components.grpo.config import GrpoConfig
from components.merge.config import MergeConfig
from components.preflight.config import Preference, Recipe
from components.release.config import ReleaseConfig
from components.report.config import ReportConfig
from components.sft.config import SftConfig
from model.options import Lora
from pipelines.recipes import vrpo

INSTRUCT = "GSAI-ML/LLaDA-8B-Instruct"
MIRROR = "/training/models"
"""Where a cluster keeps a base for all stages of all runs: on the claim `training`, so that
57 GB of a run go through the store in place of 185 (docs/sizing.md)."""
CANVAS = 256
"""New tokens of rollouts and evaluation (train.yaml, max_completion_length)."""
HELD_OUT = tuple(Source(name=name, split="test") for name in ("math", "mbpp", "humaneval"))
"""The tests of the presets that ask for solutions, beside GSM8K's: minerva_math, whose problems
are the 5000 of MATH, mbpp and humaneval."""
ASK = (
    "Think step by step, and then give the final answer alone. Respond in this form:\n"
    "<|begin_of_thought|>your steps<|end_of_thought|>"
    "<|begin_of_solution|>the final answer<|end_of_solution|>"
)
"""Stands before every question, as d1's own form does, with the delimiters of this pipeline in
place of its tags: a model that was not fine-tuned on them must be told, or it earns no reward."""


def asked(name: str) -> Entry:
    """A data set of the catalogue whose questions ask for the form of the answer."""
    entry = catalogue.find(name)
    return dataclasses.replace(entry, name=f"{name}-asked", prompt=f"{ASK}\n\n{{{entry.prompt}}}")


def measured(preset: str, **fields: Any) -> EvaluateConfig:
    """An evaluation by a published protocol on the dataset's own test part, without examples."""
    own = {"tasks": ("test",), "fewshot": 0, "fewshot_multiturn": False, **fields}
    return EvaluateConfig(**EvaluateConfig.completed({"preset": preset, **own}))


def grpo(
    *, gen_length: int = CANVAS, steps: int = 640, batch_size: int = 96, seed: int
) -> GrpoConfig:
    """diffu-GRPO (train.yaml, gsm_sft.sbatch); 640 batches are 7,680 updates.

    A batch of 96 is 8 GPUs x 6 answers x 2 accumulated.
    """
    return GrpoConfig(
        steps=steps,
        batch_size=batch_size,
        micro_batch_size=4,
        group=6,
        inner_updates=12,
        learning_rate=3e-6,
        warmup_steps=1,
        final_learning_rate=1.0,  # constant
        betas=(0.9, 0.99),
        weight_decay=0.1,
        clip=0.2,
        # Of the layers that d1 names, those that LLaDA has. Rollouts and updates score one policy,
        # so there is no dropout here, where d1 has 0.05.
        lora=Lora(
            rank=128, alpha=64.0, dropout=0.0, targets=("q_proj", "k_proj", "v_proj", "up_proj")
        ),
        estimator="one_pass",
        prompt_mask=0.15,
        normalize=False,
        clip_low=0.5,
        clip_high=0.5,
        kl=0.04,
        gen_length=gen_length,
        block_length=32,
        threshold=0.9,  # Fast-dLLM's; d1 commits two tokens a pass
        temperature=0.9,
        rewards=(("verified", 2.0), ("format", 1.5)),
        activation_checkpointing=True,
        checkpoint_minutes=5.0,
        seed=seed,
    )


def sft(*, seed: int) -> SftConfig:
    """Masked SFT (sft_train.py): 20 epochs of 990 rows, 8 a step."""
    return SftConfig(
        steps=2460,
        batch_size=8,
        learning_rate=1e-5,
        decay="linear",
        final_learning_rate=0.0,
        betas=(0.9, 0.999),
        weight_decay=0.1,
        max_length=4096,
        padding="max_length",
        lora=Lora(rank=128, alpha=256.0, dropout=0.05, targets=("q_proj", "k_proj", "v_proj")),
        activation_checkpointing=True,
        checkpoint_minutes=5.0,
        seed=seed,
    )


def llada_8b_d1(*, seed: int = 0, preference: Preference = "grpo") -> Recipe:
    """LLaDA-8B-Instruct with d1's settings, on GSM8K.

    With preference="dpo" VRPO takes the place of diffu-GRPO, which d1 does not have.
    """
    evaluate = measured(
        "llada-instruct-gsm8k-semi", gen_length=CANVAS, block_length=32, steps=CANVAS // 2
    )
    return Recipe(
        preference=preference,
        download=DownloadConfig(
            mirror=MIRROR,
            model=INSTRUCT,
            catalogue=(asked("s1k"), asked("gsm8k")),
            sft=(Source(name="s1k-asked"),),
            preferences=vrpo.PAIRS,
            problems=(Source(name="gsm8k-asked"),),
            test=(Source(name="gsm8k-asked"),),
            held_out=HELD_OUT,
            max_tokens=4096,
            seed=seed,
        ),
        merge=MergeConfig(),
        sft=sft(seed=seed),
        dpo=vrpo.dpo(seed=seed),
        grpo=grpo(seed=seed),
        evaluate=evaluate,
        evaluate_base=evaluate,
        report=ReportConfig(title="d1: LLaDA-8B-Instruct learns from s1K and GSM8K"),
        release=ReleaseConfig(accuracy=0.77, name="llada-8b-d1"),  # the base has 76.7
    )
