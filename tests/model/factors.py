"""States and a head whose logits show whether products are rounded to bf16."""

import torch


def competing(dtype):
    """States and two rows of the head that they like nearly alike, logits around 12."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(500, 64, generator=generator)
    weight = 0.1 * torch.randn(40, 64, generator=generator)
    weight[:2] += 1.5 * hidden.sign().mean(0) / 64**0.5
    hidden = hidden + 12 * weight[0] / weight[0].square().sum()
    return hidden.to(dtype), weight.to(dtype)
