"""Answers of LLaDA's published generate.py, setting by setting, to the token.

`tests/data/llada-parity` holds a small random model and what upstream's code (ML-GSAI/LLaDA, commit
b7e6c35) gave for it at temperature 0: four prompts under each of nine settings, the two switches
for the ending tokens among them.
"""

import json

import pytest
import torch
from safetensors.torch import load_file

from model import checkpoint, sampler
from tests.model.test_golden import GOLDEN

PARITY = GOLDEN.with_name("llada-parity")
FACTS = json.loads((PARITY / "settings.json").read_text())
EOS, EOT = FACTS["eos_token_id"], FACTS["eot_token_id"]


@pytest.fixture(scope="module")
def model():
    return checkpoint.load(PARITY, dtype=torch.float32)


@pytest.fixture(scope="module")
def cases():
    return load_file(PARITY / "cases.safetensors")


def options(name):
    """A setting's options, under the names that they have here."""
    given = {key: value for key, value in FACTS["settings"][name].items() if key != "pad"}
    forbidden = [EOS] if given.pop("logits_eos_inf", False) else []
    deferred = [EOS, EOT] if given.pop("confidence_eos_eot_inf", False) else []
    return {**given, "forbidden_tokens": forbidden, "deferred_tokens": deferred}


def test_nine_settings_are_covered():
    assert len(FACTS["settings"]) == 9


@pytest.mark.parametrize("name", FACTS["settings"])
def test_answers_are_upstreams(model, cases, name):
    prompt = cases[f"{name}.prompt"]
    seen = cases[f"{name}.attention_mask"].bool()
    made = sampler.generate(model, prompt, attention_mask_BP=seen, **options(name)).tokens_BL
    answer = slice(prompt.shape[1], None)
    assert torch.equal(made[:, answer], cases[f"{name}.tokens"][:, answer])


def test_the_ending_tokens_switch_matters(model, cases):
    """Without it the same prompts get other answers, so parity with it proves something."""
    name = "confidence_eos_eot_inf"
    plain = {**options(name), "deferred_tokens": []}
    made = sampler.generate(model, cases[f"{name}.prompt"], **plain).tokens_BL
    assert (made != cases[f"{name}.tokens"]).any(1).all()
