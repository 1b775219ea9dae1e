"""A new model that learns sums, to see the pipeline work. docs/log.md tells how it was tuned."""

from dataclasses import replace

from components.download.config import DownloadConfig, Shape
from components.dpo.config import DpoConfig
from components.evaluate.config import EvaluateConfig
from components.grpo.config import GrpoConfig
from components.merge.config import MergeConfig
from components.preflight.config import Preference, Recipe
from components.pretrain.config import PretrainConfig
from components.release.config import ReleaseConfig
from components.report.config import ReportConfig
from components.sft.config import SftConfig
from model.options import LAYERS, Lora, LossOptions


def tiny(*, seed: int = 0, preference: Preference = "grpo") -> Recipe:
    """A new model of 0.7 million parameters learns sums on two CPU cores.

    fp32 everywhere: for a model this small the casts of bf16 cost more than its products save.
    """
    adapter = Lora(rank=32, alpha=64.0, dropout=0.0, targets=LAYERS)
    evaluate = EvaluateConfig(
        gen_length=32, block_length=8, threshold=0.9, cache="dual", batch_size=250
    )
    return Recipe(
        preference=preference,
        download=DownloadConfig(
            model="new",
            made="sums",
            shape=Shape(d_model=96, n_heads=3, mlp_hidden_size=384),
            test_problems=500,
            seed=seed,
        ),
        pretrain=PretrainConfig(
            steps=900,
            batch_size=8,
            micro_batch_size=8,
            learning_rate=2e-3,
            warmup_steps=100,
            final_learning_rate=0.0,
            betas=(0.9, 0.98),
            weight_decay=0.01,
            window=128,
            objective=LossOptions(band=(0.1, 0.9)),
            precision="fp32",
            seed=seed,
        ),
        merge=MergeConfig(),
        sft=SftConfig(
            steps=1000,
            batch_size=16,
            micro_batch_size=16,
            learning_rate=2e-3,
            warmup_steps=100,
            final_learning_rate=0.0,
            betas=(0.9, 0.98),
            weight_decay=0.01,
            max_length=64,
            objective=LossOptions(band=(0.2, 1.0)),  # few masks teach little here, and are noise
            precision="fp32",
            seed=seed,
        ),
        dpo=DpoConfig(
            steps=100,
            batch_size=16,
            micro_batch_size=16,
            learning_rate=1e-3,
            warmup_steps=10,
            max_length=64,
            beta=0.02,
            draws=1,
            sft_weight=20.0,
            lora=adapter,
            precision="fp32",
            seed=seed,
        ),
        grpo=GrpoConfig(
            steps=24,
            batch_size=256,
            micro_batch_size=64,
            minibatch=64,
            learning_rate=1e-3,
            warmup_steps=4,
            clip=0.3,
            group=4,
            inner_updates=1,
            kl=0.0,
            rewards=(("verified", 1.0), ("format", 0.1)),
            reward_workers=1,
            gen_length=32,
            block_length=8,
            threshold=0.9,
            temperature=1.0,
            lora=adapter,
            precision="fp32",
            seed=seed,
        ),
        evaluate=evaluate,
        # Behind its question a line of the texts has 28 or 29 tokens, its end included.
        evaluate_base=replace(evaluate, form="text", gen_length=29),
        report=ReportConfig(title="A tiny LLaDA learns to add"),
        release=ReleaseConfig(accuracy=0.7, name="llada-tiny-sums"),
    )
