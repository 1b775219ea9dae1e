"""Rows that spell control tokens are text in every stage, and a row's system is asked as well."""

import json

import pytest
import torch

from components import coerce
from components.data import dataset as data
from components.data.token_shards import Shards
from components.dpo import pairs
from components.grpo.config import GrpoConfig
from components.grpo.rollouts import roll_out
from components.session.session import open_base
from components.sft.dialogues import dialogues
from model.tokenizer import BOS, END_HEADER, EOS, EOT, MASK, START_HEADER, load_tokenizer
from tests.components.corpora import download, write_jsonl
from tests.conftest import stage

SPELT = f"Explain {MASK} and {EOT} to {EOS}."
GIVEN = {
    "pretrain": [{"text": f"{SPELT} {BOS}"}],
    "sft": [
        {"system": SPELT, "prompt": SPELT, "completion": f"It is {MASK}."},
        {"messages": [{"role": "user", "content": SPELT}, {"role": "assistant", "content": SPELT}]},
    ],
    "preferences": [{"system": SPELT, "prompt": SPELT, "chosen": SPELT, "rejected": "no"}],
    "problems": [{"prompt": SPELT, "answer": "2"}, {"prompt": "1 + 1 =", "answer": "2"}],
    "test": [
        {"prompt": SPELT, "answer": "2"},
        {"prompt": "1 + 1 =", "answer": "2"},
        {"prompt": "1 + 1 =", "answer": "2"},
        {"prompt": "1 + 1 =", "answer": "2", "system": SPELT},
        {"prompt": "1 + 1 =", "answer": "2", "system": f"{SPELT} Say it in words."},
    ],
}
SHORT = {"gen_length": 8, "block_length": 8}
TRAINED = {"steps": 1, "batch_size": 2, "micro_batch_size": 2}
LORA = {"lora": {"rank": 2, "alpha": 4, "dropout": 0.0}}


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Directories `model` and `dataset` of a base that learnt its words from such rows."""
    root = tmp_path_factory.mktemp("spelt")
    files = {part: write_jsonl(root / f"{part}.jsonl", rows) for part, rows in GIVEN.items()}
    shape = {"d_model": 32, "n_layers": 1, "n_heads": 2, "mlp_hidden_size": 64, "context": 512}
    sample = {"long_share": 0, "min_tokens": 1, "quality": False}
    named = {part: [{"location": file}] for part, file in files.items()}
    same = {"decontaminate": False}  # the parts hold the same rows
    _, report = download(root, "new", shape=shape, sample=sample, **named, **same)
    assert not any(facts["dropped"] for facts in report.values())
    return root


@pytest.fixture(scope="module")
def tokenizer(given):
    return load_tokenizer(given / "model")


def placed(ids, tokenizer):
    """The control tokens among some ids, in their order."""
    return [
        name
        for name in tokenizer.convert_ids_to_tokens(ids)
        if name in tokenizer.all_special_tokens
    ]


TURN = [START_HEADER, END_HEADER, EOT]
ASKED = [BOS, *TURN, *TURN[:2]]
TOLD = [BOS, *TURN, *TURN, *TURN[:2]]


def test_the_control_tokens_of_every_part_are_the_templates(given, tokenizer):
    (document,) = [Shards(given / "dataset" / "pretrain", tokenizer).tokens(0).tolist()]
    assert placed(document, tokenizer) == [EOS]
    assert tokenizer.decode(document[:-1]) == GIVEN["pretrain"][0]["text"]
    talks = dialogues(data.read(given / "dataset", "sft"), tokenizer, 512)
    assert [placed(prompt, tokenizer) for prompt, _ in talks] == [TOLD, ASKED]
    assert [placed(answer, tokenizer) for _, answer in talks] == [[EOT]] * 2
    ((pair,), _) = pairs.read(data.read(given / "dataset", "preferences"), tokenizer, 512)
    assert placed(pair.prompt, tokenizer) == TOLD
    assert placed(pair.chosen, tokenizer) == [EOT, EOS]
    assert tokenizer.decode(pair.prompt).count(SPELT) == 2


def test_training_goes_on(given, tmp_path):
    for name, config in {
        "sft": {**TRAINED, "max_length": 512},
        "grpo": {**TRAINED, **LORA, **SHORT, "minibatch": 2, "group": 2},
    }.items():
        out = {"trained": tmp_path / name / "a", "metrics": tmp_path / name / "m"}
        stage(name, config, base=given / "model", dataset=given / "dataset", **out)


def test_rollouts_ask_for_the_text(given):
    config = coerce.build(GrpoConfig, {**TRAINED, **LORA, **SHORT, "minibatch": 2, "group": 2})
    model, _, tokenizer = open_base(given / "model", config)
    rows = [data.read(given / "dataset", "test")[number] for number in (0, 3)]
    found, _ = roll_out(model, tokenizer, rows, config, torch.Generator().manual_seed(0))
    asked = found.tokens_BL[:, : -SHORT["gen_length"]]
    asked = [row[row != tokenizer.eos_token_id].tolist() for row in asked]
    assert [placed(row, tokenizer) for row in asked] == [ASKED] * 2 + [TOLD] * 2
    assert all(SPELT in tokenizer.decode(row) for row in asked)


def test_evaluation_asks_each_row_with_its_system(given, tmp_path):
    """Equal rows are answered alike; rows that differ in their system alone are not."""
    names = {name: tmp_path / name for name in ("evaluation", "metrics", "page", "summary")}
    stage(
        "evaluate",
        {**SHORT, "batch_size": 5, "traces": 1, "gen_length": 16},
        model=given / "model",
        dataset=given / "dataset",
        accuracy=tmp_path / "accuracy",
        **names,
    )
    lines = (tmp_path / "evaluation" / "samples.jsonl").read_text().split("\n")
    samples = [json.loads(line) for line in lines if line]
    assert [sample["prompt"] for sample in samples] == [row["prompt"] for row in GIVEN["test"]]
    _, one, two, told, otherwise = (sample["response"] for sample in samples)
    assert one == two and len({one, told, otherwise}) > 1
