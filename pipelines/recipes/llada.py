"""LLaDA-8B and its two instructed models, on public data and on GPUs, with LoRA in every stage."""

from components.data.config import Sample, Source
from components.download.config import DownloadConfig
from components.grpo.config import GrpoConfig
from components.merge.config import MergeConfig
from components.preflight.config import Preference, Recipe
from components.pretrain.config import PretrainConfig
from components.release.config import ReleaseConfig
from components.report.config import ReportConfig
from components.sft.config import SftConfig
from model.options import Curriculum, Lora, LossOptions
from pipelines.recipes import d1, vrpo

CANVAS = 2048
"""Tokens of a dialogue in SFT, and new tokens of rollouts and evaluation: an answer that was learnt
fits, whole. iLLaDA's evaluation of GSM8K has as many (arXiv:2606.25331)."""
THOUGHTS = "openthoughts-114k-metadata"


def sft(*, seed: int) -> SftConfig:
    """Thoughts of up to CANVAS tokens. LLada-Reasoning's script has these settings at 4096 tokens.

    Three epochs of 30,000 rows. How many rows of OpenThoughts fit was estimated, not counted: the
    card of the dataset has the number.
    """
    return SftConfig(
        steps=700,
        batch_size=128,
        learning_rate=1e-5,
        warmup_steps=70,
        final_learning_rate=0.1,
        weight_decay=0.1,
        max_length=CANVAS,
        lora=Lora(rank=128, alpha=256.0, dropout=0.05),
        activation_checkpointing=True,
        checkpoint_minutes=5.0,
        seed=seed,
    )


def pretrain(*, seed: int) -> PretrainConfig:
    """8192 tokens by YaRN: LLada-Reasoning's settings, with the masking curriculum.

    LLada-Reasoning announces a curriculum and has none; this one is ours (model/noising.py).
    """
    return PretrainConfig(
        steps=500,
        batch_size=64,
        learning_rate=1e-5,
        warmup_steps=20,
        decay="linear",
        final_learning_rate=0.1,
        window=8192,
        context=8192,
        objective=LossOptions(curriculum=Curriculum(original_context=4096)),
        lora=Lora(rank=128, alpha=256.0, dropout=0.05),
        activation_checkpointing=True,
        checkpoint_minutes=5.0,
        seed=seed,
    )


def grpo(*, seed: int) -> GrpoConfig:
    """d1's, with answers of CANVAS tokens. 36 of them are generated together in 67 GiB of one GPU.

    96 as in d1 need three GPUs (`make pipeline-plan`).
    """
    return d1.grpo(gen_length=CANVAS, steps=1000, batch_size=36, seed=seed)


def llada_8b(*, seed: int = 0, preference: Preference = "grpo") -> Recipe:
    """LLaDA-8B-Base: a longer context, thoughts, and then problems of GSM8K and MATH.

    Nine tenths of the pretraining tokens are of books, and the rest of web pages, which have a
    hundredth of a book's length: 30,000 documents are about 290 million tokens, of which 262
    million are trained on.
    """
    return Recipe(
        preference=preference,
        download=DownloadConfig(
            mirror=d1.MIRROR,
            pretrain=(Source(name="pg19"), Source(name="fineweb-edu", weight=10.0)),
            sample=Sample(documents=30_000, long_share=0.0),
            sft=(Source(name=THOUGHTS),),
            preferences=vrpo.PAIRS,
            problems=(Source(name="gsm8k"), Source(name="math")),
            test=(Source(name="gsm8k"), Source(name="math-500")),
            held_out=d1.HELD_OUT,
            max_tokens=CANVAS,
            seed=seed,
        ),
        pretrain=pretrain(seed=seed),
        merge=MergeConfig(),
        sft=sft(seed=seed),
        dpo=vrpo.dpo(seed=seed),
        grpo=grpo(seed=seed),
        evaluate=d1.measured(
            "llada-instruct-gsm8k-semi",
            gen_length=CANVAS,
            block_length=32,
            threshold=0.9,
            cache="dual",
        ),
        evaluate_base=d1.measured("llada-base-gsm8k-256"),
        report=ReportConfig(title="LLaDA-8B learns to reason"),
        release=ReleaseConfig(name="llada-8b-reasoner"),
    )


def llada_8b_instruct(*, seed: int = 0, preference: Preference = "grpo") -> Recipe:
    """LLaDA-8B-Instruct: thoughts, and then problems of GSM8K and MATH."""
    names = ("gsm8k", "math", "math-500", THOUGHTS)
    evaluate = d1.measured(
        "llada-instruct-gsm8k-semi",
        gen_length=CANVAS,
        block_length=32,
        threshold=0.9,
        cache="dual",
    )
    return Recipe(
        preference=preference,
        download=DownloadConfig(
            mirror=d1.MIRROR,
            model=d1.INSTRUCT,
            catalogue=tuple(d1.asked(name) for name in names),
            sft=(Source(name=f"{THOUGHTS}-asked"),),
            preferences=vrpo.PAIRS,
            problems=(Source(name="gsm8k-asked"), Source(name="math-asked")),
            test=(Source(name="gsm8k-asked"), Source(name="math-500-asked")),
            held_out=d1.HELD_OUT,
            max_tokens=CANVAS,
            seed=seed,
        ),
        merge=MergeConfig(),
        sft=sft(seed=seed),
        dpo=vrpo.dpo(seed=seed),
        grpo=grpo(seed=seed),
        evaluate=evaluate,
        evaluate_base=evaluate,
        report=ReportConfig(title="LLaDA-8B-Instruct learns to reason"),
        release=ReleaseConfig(accuracy=0.65, name="llada-8b-instruct-reasoner"),
    )


def llada_1_5(*, seed: int = 0, preference: Preference = "grpo") -> Recipe:
    """LLaDA 1.5: alignment alone, on problems of GSM8K and MATH, with answers of 256 tokens."""
    names = ("gsm8k", "math", "math-500")
    evaluate = d1.measured("llada-1.5-gsm8k")
    return Recipe(
        preference=preference,
        download=DownloadConfig(
            mirror=d1.MIRROR,
            model="GSAI-ML/LLaDA-1.5",
            catalogue=tuple(d1.asked(name) for name in names),
            preferences=vrpo.PAIRS,
            problems=(Source(name="gsm8k-asked"), Source(name="math-asked")),
            test=(Source(name="gsm8k-asked"), Source(name="math-500-asked")),
            held_out=d1.HELD_OUT,
            seed=seed,
        ),
        merge=MergeConfig(),
        dpo=vrpo.dpo(seed=seed),
        grpo=d1.grpo(seed=seed),
        evaluate=evaluate,
        evaluate_base=evaluate,
        report=ReportConfig(title="LLaDA 1.5 learns to reason"),
        release=ReleaseConfig(accuracy=0.7, name="llada-1.5-reasoner"),
    )
