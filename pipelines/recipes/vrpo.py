"""Preference optimization with reduced variance: VRPO, which made LLaDA 1.5 (arXiv:2505.19223).

Its authors have published neither their code nor their 350,000 pairs. The settings are those of
LLada-Reasoning (github.com/QuentinFitteRey/LLada-Reasoning at 7574a28), which says that they are
the paper's; its learning rate could not be compared with the paper's.
"""

from components.data.config import Source
from components.dpo.config import DpoConfig
from model.options import Lora

PAIRS = (Source(name="ultrafeedback"),)


def dpo(*, seed: int) -> DpoConfig:
    """An epoch of UltraFeedback's 61,135 pairs, 64 a step."""
    return DpoConfig(
        steps=950,
        batch_size=64,
        learning_rate=5e-5,
        warmup_steps=3,
        final_learning_rate=0.1,
        betas=(0.9, 0.95),
        weight_decay=0.01,
        max_length=2048,  # LLada-Reasoning has 4096; most pairs are shorter than either
        beta=0.2,
        draws=8,
        # Dropout would be noise in the margin; LLada-Reasoning has 0.1.
        lora=Lora(rank=128, alpha=256.0, dropout=0.0),
        activation_checkpointing=True,
        checkpoint_minutes=5.0,
        seed=seed,
    )
