"""iLLaDA-8B-Base (arXiv:2606.25331): grouped heads, tied weights, and 8192 positions of its own."""

from components.data.config import Source
from components.download.config import DownloadConfig
from components.evaluate.config import EvaluateConfig
from components.merge.config import MergeConfig
from components.preflight.config import Preference, Recipe
from components.release.config import ReleaseConfig
from components.report.config import ReportConfig
from pipelines.recipes import d1, llada, vrpo

CANVAS = llada.CANVAS


def illada_8b(*, seed: int = 0, preference: Preference = "grpo") -> Recipe:
    """iLLaDA-8B-Base: thoughts, and then problems of GSM8K and MATH. It needs no longer context.

    EVAL.md has no row of iLLaDA, so no preset is named. Blocks of 32 are those of its paper.
    """
    return Recipe(
        preference=preference,
        download=DownloadConfig(
            mirror=d1.MIRROR,
            model="GSAI-ML/iLLaDA-8B-Base",
            sft=(Source(name=llada.THOUGHTS),),
            preferences=vrpo.PAIRS,
            problems=(Source(name="gsm8k"), Source(name="math")),
            test=(Source(name="gsm8k"), Source(name="math-500")),
            held_out=d1.HELD_OUT,
            max_tokens=CANVAS,
            seed=seed,
        ),
        merge=MergeConfig(),
        sft=llada.sft(seed=seed),
        dpo=vrpo.dpo(seed=seed),
        grpo=d1.grpo(gen_length=CANVAS, steps=500, seed=seed),
        evaluate=EvaluateConfig(gen_length=CANVAS, block_length=32, threshold=0.9, cache="dual"),
        evaluate_base=EvaluateConfig(form="text", gen_length=256, block_length=32),
        report=ReportConfig(title="iLLaDA-8B learns to reason"),
        release=ReleaseConfig(name="illada-8b-reasoner"),
    )
