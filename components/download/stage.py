"""Fetches the base model and the data, or makes both where a run needs nothing from outside."""

import json
import random
import shutil
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from components import artifact
from components import dataset as data
from components.artifact import Output
from components.download import arithmetic
from components.download.config import DownloadConfig, Shape
from components.storage import fetch
from model import checkpoint, tokenizer
from model.config import LLaDAConfig
from model.llada import LLaDA


def run(config: DownloadConfig, *, model: Output, dataset: Output, metrics: Output) -> None:
    """Writes the base model with its tokenizer, and the five files of the dataset."""
    counts = _make_data(config, dataset) if config.dataset is None else _fetch_data(config, dataset)
    if config.model == "new":
        parameters = _make_model(config.shape, config.seed, dataset, model)
    else:
        parameters = _fetch_model(config.model, config.revision, model)
    (metrics / artifact.METRICS).write_text(json.dumps({"parameters": parameters, **counts}) + "\n")
    artifact.record(
        {"model": model, "dataset": dataset, "metrics": metrics},
        stage="download",
        config=config,
        inputs={},
        summary={"parameters": parameters, **counts},
    )


def _make_data(config: DownloadConfig, dataset: Path) -> dict[str, int]:
    """Splits the sums into test and training problems, and writes every part of the dataset."""
    rng = random.Random(config.seed)
    problems = arithmetic.problems(seed=config.seed)
    rng.shuffle(problems)
    test, train = problems[: config.test_problems], problems[config.test_problems :]
    parts = {
        "pretrain": [{"text": arithmetic.document(problem)} for problem in train],
        "sft": [arithmetic.dialogue(problem) for problem in train],
        "preferences": [arithmetic.preference(problem, rng) for problem in train],
        "problems": [arithmetic.verifiable(problem) for problem in train],
        "test": [arithmetic.verifiable(problem) for problem in test],
    }
    for part, rows in parts.items():
        data.write(dataset, part, rows)
    return {part: len(rows) for part, rows in parts.items()}


def _fetch_data(config: DownloadConfig, dataset: Path) -> dict[str, int]:
    assert config.dataset is not None
    files = [f"{part}.jsonl" for part in data.COLUMNS]
    source = fetch(config.dataset, config.dataset_revision, kind="dataset", patterns=files)
    counts = {part: len(data.read(source, part)) for part in data.COLUMNS}
    for file in files:
        shutil.copyfile(source / file, dataset / file)
    return counts


def _make_model(shape: Shape, seed: int, dataset: Path, path: Path) -> int:
    """A new LLaDA and a tokenizer trained on the data; returns the number of parameters."""
    words = _make_tokenizer(shape.vocabulary, dataset)
    torch.manual_seed(seed)
    network = LLaDA(
        LLaDAConfig(
            d_model=shape.d_model,
            n_layers=shape.n_layers,
            n_heads=shape.n_heads,
            mlp_hidden_size=shape.mlp_hidden_size,
            vocab_size=shape.vocabulary,
            max_sequence_length=shape.context,
            rope_theta=shape.rope_theta,
            mask_token_id=words.mask_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.eos_token_id,
        )
    )
    checkpoint.save(network, path)
    words.save_pretrained(path)
    return sum(parameter.numel() for parameter in network.parameters())


def _make_tokenizer(vocabulary: int, dataset: Path) -> PreTrainedTokenizerBase:
    documents = [row["text"] for row in data.read(dataset, "pretrain")]
    dialogues = data.read(dataset, "sft")
    turns = [turn for row in dialogues for turn in row["messages"]]
    return tokenizer.train(
        [*documents, *(f"{turn['role']}\n\n{turn['content']}" for turn in turns)],
        vocabulary=vocabulary,
    )


def _fetch_model(name: str, revision: str | None, path: Path) -> int:
    """Copies a checkpoint and its tokenizer, without the code that upstream ships beside them."""
    source = fetch(name, revision, kind="model", patterns=["*.json", "*.safetensors", "*.jinja"])
    for file in source.iterdir():
        is_record = file.name == artifact.RECORD  # the source's, where a stage made it
        if file.suffix in (".json", ".safetensors", ".jinja") and not is_record:
            shutil.copyfile(file, path / file.name)
    stored = next(iter(checkpoint.inspect(path)[1].values())).dtype
    network = checkpoint.load(path, dtype=stored, check_finite=True)
    tokenizer.load(path).save_pretrained(path)
    return sum(parameter.numel() for parameter in network.parameters())
