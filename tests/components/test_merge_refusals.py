"""Adapters that do not fit their base are refused by name, through the real command line."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from components import artifact
from model import lora
from tests.components.test_merge import QUERY, merged, network, trained


def refused(root, capsys, run, *words):
    """The command line ends with exit code 2, one line that holds the words, and no model."""
    with pytest.raises(SystemExit) as end:
        run()
    assert end.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    for word in ("merge: error: ", *words):
        assert word in line
    assert not (root / "model" / artifact.RECORD).exists()
    assert not (root / "model" / "config.json").exists()


def edit(**changes):
    """A change of the adapter's settings."""

    def change(adapter):
        file = adapter / lora.CONFIG
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def tensors(alter):
    """A change of the adapter's tensors."""

    def change(adapter):
        state = load_file(adapter / lora.WEIGHTS)
        alter(state)
        save_file(state, adapter / lora.WEIGHTS)

    return change


KEY = f"{lora.PREFIX}{QUERY.removesuffix('.weight')}"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            tensors(lambda state: state.update({f"{KEY}.lora_A.weight": torch.ones(4, 31)})),
            [f"{KEY}.lora_A.weight has shape (4, 31), expected (4, 32)"],
        ),
        (
            tensors(lambda state: state.update({f"{KEY}.lora_B.weight": torch.ones(32, 5)})),
            [f"{KEY}.lora_B.weight has shape (32, 5), expected (32, 4)"],
        ),
        (tensors(lambda state: state.pop(f"{KEY}.lora_A.weight")), [f"{KEY}.lora_B.weight"]),
        (
            tensors(lambda state: state.update({f"{KEY}.lora_E": torch.ones(4)})),
            [f"{KEY}.lora_E is of a kind that is not merged"],
        ),
        (
            tensors(lambda state: state[f"{KEY}.lora_B.weight"][1].fill_(float("nan"))),
            [f"merged weight {QUERY} holds NaN"],
        ),
        (
            tensors(lambda state: state.update({"base_model.model.x.weight": torch.ones(4)})),
            ["updates x.weight, which the base does not have"],
        ),
        (edit(peft_type="LOHA"), ["peft_type='LOHA', allowed: LORA"]),
        (edit(init_lora_weights="pissa"), ["init_lora_weights='pissa' changed the base"]),
        (edit(use_qalora=True), ["use_qalora=True is not merged"]),
        (edit(r="4"), ["r='4', allowed: a whole number"]),
        (edit(lora_alpha=[12]), ["lora_alpha=[12], allowed: a number"]),
        (edit(rank_pattern=[4]), ["rank_pattern=[4], allowed: an object"]),
        (edit(rank_pattern={"q_proj": 0}), ["rank_pattern=0, allowed: whole numbers"]),
        (edit(alpha_pattern={"q_proj": None}), ["alpha_pattern=None, allowed: a number"]),
        *(
            (edit(rank_pattern={pattern: 4}), ["rank_pattern=", "allowed: names and simple"])
            for pattern in (
                "(.+)+x",
                "(a|a)*x",
                "a{9999}{9999}",
                "(?=a)b",
                "(",
                "a" * 300,
                ".*" * 4,
            )
        ),
        (lambda adapter: (adapter / lora.WEIGHTS).write_bytes(b"12345"), ["truncated or damaged"]),
        (lambda adapter: (adapter / lora.CONFIG).write_text("{"), ["not JSON"]),
    ],
)
def test_adapters_that_do_not_fit_are_refused(tmp_path, capsys, change, words):
    wrapped = trained(network())
    refused(tmp_path, capsys, lambda: merged(tmp_path, network(), wrapped, change=change), *words)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ([3], "trainable_token_indices=[3] of 'wte', allowed: rows of layers whose weights"),
        ({"transformer.ff_out": [3, 4]}, "[3, 4] of 'transformer.ff_out', allowed: "),
        (7, "trainable_token_indices=7 of 'wte', allowed: "),
    ],
)
def test_tokens_without_weights_are_refused(tmp_path, capsys, settings, words):
    """The merged model would lack what was trained."""
    change, wrapped = edit(trainable_token_indices=settings), trained(network())
    refused(tmp_path, capsys, lambda: merged(tmp_path, network(), wrapped, change=change), words)


@pytest.mark.parametrize("indices", [[3, 70], [3, 3], [-1, 3], [3]])
def test_trained_tokens_that_do_not_fit_are_refused(tmp_path, capsys, indices):
    wrapped = trained(network(), trainable_token_indices=[3, 69])
    change = edit(trainable_token_indices=indices)
    refused(
        tmp_path,
        capsys,
        lambda: merged(tmp_path, network(), wrapped, change=change),
        "trainable_token",
    )
