"""Packed documents against batches padded to their longest document.

Forward and backward of the pretraining loss. Document lengths are log-normal, median 90 tokens and
sigma 1, cut to 16 to 512 tokens: the spread of web text at about a quarter of its length. The
padded batches are a plain loader's: eight documents at a time in random order. The packed rows have
512 tokens, filled first-fit by falling length, two at a time. Packing happens before the clock
starts, as a loader does it. On a GPU four layers of the 8B width in bf16, and eight packed rows at
a time, as many as padded ones.
"""

import torch
from torch.nn.utils.rnn import pad_sequence

from benchmarks import measure
from benchmarks.measure import Row
from benchmarks.network import network
from model import diffusion
from model.config import LLaDAConfig

SMALL = LLaDAConfig(
    d_model=256,
    n_heads=4,
    n_layers=4,
    mlp_hidden_size=768,
    vocab_size=8192,
    max_sequence_length=512,
    mask_token_id=8191,
    eos_token_id=1,
    pad_token_id=1,
)
LARGE = LLaDAConfig(n_layers=4)
DOCUMENTS, PADDED_ROWS, WINDOW = 32, 8, 512
PACKED_ROWS, PACKED_ROWS_ON_A_GPU = 2, 8


def rows(device: str) -> list[Row]:
    """Useful tokens a second of both ways, over the same documents."""
    model = network(device, SMALL, LARGE).train()
    at_a_time = PACKED_ROWS if device == "cpu" else PACKED_ROWS_ON_A_GPU
    lengths = document_lengths(DOCUMENTS)
    texts = [torch.randint(2, 8000, (length,)) for length in lengths]
    batches = [[b.to(device) for b in batch] for batch in padded(texts)]
    windows = [[b.to(device) for b in batch] for batch in packed(texts, at_a_time)]

    def plain() -> None:
        for tokens_BL, real_BL in batches:
            diffusion.pretraining_loss(model, tokens_BL, real_BL).backward()

    def together() -> None:
        for tokens_BL, documents_BL in windows:
            diffusion.pretraining_loss(
                model, tokens_BL, documents_BL > 0, documents_BL=documents_BL
            ).backward()

    baseline, ours = measure.seconds(plain, together, device=device)
    return [
        Row(
            work=f"training over {DOCUMENTS} documents of 16 to 512 tokens, packed",
            against=f"batches of {PADDED_ROWS} padded to the longest",
            unit="tokens/s",
            baseline=sum(lengths) / baseline,
            ours=sum(lengths) / ours,
            bar=1.5,
            higher_is_better=True,
        )
    ]


def document_lengths(count: int) -> list[int]:
    """Log-normal lengths, cut to 16..WINDOW."""
    draw = torch.Generator().manual_seed(0)
    lengths = (90 * torch.randn(count, generator=draw).exp()).long().clamp(16, WINDOW)
    return lengths.tolist()


def padded(texts: list[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(tokens, real) [8, longest] in the given, random order."""
    batches = []
    for start in range(0, len(texts), PADDED_ROWS):
        group = texts[start : start + PADDED_ROWS]
        tokens_BL = pad_sequence(group, batch_first=True, padding_value=1)
        real = [torch.ones_like(text, dtype=torch.bool) for text in group]
        batches.append((tokens_BL, pad_sequence(real, batch_first=True)))
    return batches


def packed(texts: list[torch.Tensor], at_a_time: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(tokens, documents) [at_a_time, 512], first-fit by falling length."""
    bins: list[list[torch.Tensor]] = []
    for text in sorted(texts, key=len, reverse=True):
        fits = (row for row in bins if sum(map(len, row)) + len(text) <= WINDOW)
        row = next(fits, None)
        if row is None:
            bins.append(row := [])
        row.append(text)
    tokens_BL, documents_BL = (torch.zeros(len(bins), WINDOW, dtype=torch.long) for _ in range(2))
    for number, row in enumerate(bins):
        start = 0
        for name, text in enumerate(row, 1):
            tokens_BL[number, start : start + len(text)] = text
            documents_BL[number, start : start + len(text)] = name
            start += len(text)
    return list(zip(tokens_BL.split(at_a_time), documents_BL.split(at_a_time), strict=True))
