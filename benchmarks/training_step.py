"""A training step with a large vocabulary against one that makes logits for every position.

Forward and backward of full fine-tuning, the head trained, over 4 sequences of 512 tokens; about
half of the tokens are masked. Then the head's product alone, summed in fp32 against rounded to
bf16. On a GPU the 8B shape in bf16, activations checkpointed. The
gradients are allocated before, as in every micro-batch but the first of an optimizer step: both
ways need them alike, so they are not in the extra memory.
"""

import torch
import torch.nn.functional as F

from benchmarks import measure
from benchmarks.measure import Row
from benchmarks.network import network
from model import diffusion
from model.config import LLaDAConfig
from model.llada import LLaDA
from model.projection import wide_logits

SMALL = LLaDAConfig(
    d_model=512, n_heads=8, n_layers=2, mlp_hidden_size=1536, max_sequence_length=512
)


def rows(device: str) -> list[Row]:
    """Extra peak memory and seconds of a step."""
    model, tokens_BL = setting(device)
    ways = [lambda: baseline(model, tokens_BL), lambda: ours(model, tokens_BL)]
    for way in ways:
        way()
    bytes_ = [measure.extra_bytes(way, device) / 2**20 for way in ways]
    seconds = measure.seconds(*ways, device=device)
    config = model.config
    work = (
        f"training step, 2048 tokens, vocabulary {config.vocab_size}, d {config.d_model}, "
        f"{config.n_layers} layers, head trained"
    )
    against = "logits at every position in fp32"
    return [
        Row(
            work=f"extra memory of a {work}",
            against=against,
            unit="MiB",
            baseline=bytes_[0],
            ours=bytes_[1],
            bar=5.0,
        ),
        Row(work=work, against=against, unit="s", baseline=seconds[0], ours=seconds[1], bar=1.0),
        *head_rows(model, device),
    ]


@torch.no_grad()
def head_rows(model: LLaDA, device: str) -> list[Row]:
    """The logits of 256 positions from bf16 factors: seconds, and how far log p is off."""
    weight_VD = model.head_weight.to(torch.bfloat16)
    states_ND = torch.randn(256, weight_VD.shape[1], device=device)
    # As large as a trained model's, whose likeliest tokens have logits of about 17.
    states_ND *= 4 / (states_ND @ weight_VD.float().T).std()
    states_ND = states_ND.to(torch.bfloat16)
    ways = [
        lambda: F.linear(states_ND, weight_VD).float(),
        lambda: wide_logits(states_ND, weight_VD),
    ]
    seconds = measure.seconds(*ways, device=device)
    exact_NV = states_ND.double() @ weight_VD.double().T
    best_N2 = exact_NV.topk(2).indices
    errors = [
        (way().gather(1, best_N2) - exact_NV.gather(1, best_N2)).diff().std().item() for way in ways
    ]
    work = f"logits of 256 positions from bf16, vocabulary {weight_VD.shape[0]}"
    against = "products rounded to bf16"
    return [
        Row(work=work, against=against, unit="s", baseline=seconds[0], ours=seconds[1], bar=None),
        Row(
            work="log p of the two likeliest tokens, deviation of its error",
            against=against,
            unit="nats",
            baseline=errors[0],
            ours=errors[1],
            bar=None,
        ),
    ]


def setting(device: str) -> tuple[LLaDA, torch.Tensor]:
    """A model in training whose gradients are allocated, and tokens [4, 512]."""
    model = network(device, SMALL).train()
    model.checkpoint_activations = device != "cpu"
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return model, torch.randint(0, 126000, (4, 512), device=device)


def ours(model: LLaDA, tokens_BL: torch.Tensor) -> None:
    """The library's loss."""
    real_BL = torch.ones_like(tokens_BL, dtype=torch.bool)
    diffusion.pretraining_loss(model, tokens_BL, real_BL, generator=_draw(model)).backward()


def baseline(model: LLaDA, tokens_BL: torch.Tensor) -> None:
    """The same loss at the same noise, from logits of all positions."""
    draw = _draw(model)
    ratio_B = diffusion.sample_mask_ratio(len(tokens_BL), generator=draw, device=model.device)
    noisy_BL, masked_BL = diffusion.noise(
        tokens_BL,
        ratio_B,
        torch.ones_like(tokens_BL, dtype=torch.bool),
        model.config.mask_token_id,
        generator=draw,
    )
    loss = F.cross_entropy(
        model(noisy_BL).float().flatten(0, 1), tokens_BL.flatten(), reduction="none"
    )
    weight_BL = masked_BL / ratio_B[:, None]
    ((loss.view_as(weight_BL) * weight_BL).sum() / tokens_BL.numel()).backward()


def _draw(model: LLaDA) -> torch.Generator:
    return torch.Generator(model.device).manual_seed(0)
