"""The golden model, prompts and short answers of the sampler's tests."""

import torch

from model import checkpoint, sampler
from tests.model.test_golden import GOLDEN

MODEL = checkpoint.load(GOLDEN, dtype=torch.float32)
MASK, PAD = MODEL.config.mask_token_id, MODEL.config.pad_token_id
PROMPT = torch.randint(2, 300, (2, 12), generator=torch.Generator().manual_seed(0))
PROMPTS = [
    row for row in torch.randint(2, 300, (3, 12), generator=torch.Generator().manual_seed(3))
]
CACHES = ("none", "prefix", "dual")
SHORT = dict(gen_length=16, block_length=8)


def answers(prompt_BP, **options):
    """The answers [B, G] and the number of passes."""
    made = sampler.generate(MODEL, prompt_BP, **{**SHORT, **options})
    return made.tokens_BL[:, prompt_BP.shape[1] :], made.forward_passes


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def padded(rows, side):
    """A batch of rows of different lengths, padded on one side, and its attention mask."""
    width = max(map(len, rows))
    batch = torch.full((len(rows), width), PAD)
    mask = torch.zeros_like(batch)
    for index, row in enumerate(rows):
        real = slice(width - len(row), None) if side == "left" else slice(len(row))
        batch[index, real], mask[index, real] = row, 1
    return batch, mask
