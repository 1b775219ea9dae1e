"""Holds the model and the sampler to reference outputs of a small random LLaDA."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model import checkpoint, sampler

GOLDEN = Path(__file__).parents[1] / "data" / "llada-tiny"
CASES = json.loads((GOLDEN / "cases.json").read_text())
GENERATIONS = [name.split(".")[1] for name in CASES if name.startswith("nfe.")]


@pytest.fixture(scope="module")
def model():
    return checkpoint.load(GOLDEN, dtype=torch.float32)


@pytest.fixture(scope="module")
def tensors():
    return load_file(GOLDEN / "cases.safetensors")


def test_logits(model, tensors):
    with torch.inference_mode():
        logits = model(tensors["input_ids"])
    assert (logits - tensors["logits"]).abs().max() < 1e-4


def test_six_generations_are_covered():
    assert len(GENERATIONS) == 6


@pytest.mark.parametrize("name", GENERATIONS)
def test_generation(model, tensors, name):
    cache = name.split("_")[0].replace("plain", "none")
    result = sampler.generate(
        model,
        tensors["prompt"][:1],
        gen_length=CASES["gen_length"],
        block_length=CASES["block_length"],
        steps=CASES["steps"],
        cache=cache,
        threshold=CASES["threshold"] if name.endswith("threshold") else None,
    )
    assert torch.equal(result.tokens_BL, tensors[f"generate.{name}"])
    assert result.forward_passes <= CASES[f"nfe.{name}"]
