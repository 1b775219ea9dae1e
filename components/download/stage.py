"""Fetches the base model and the data, or makes both where a run needs nothing from outside."""

import importlib
import itertools
import json
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from components import artifact
from components.artifact import Output
from components.data import corpus, datacard
from components.data import dataset as data
from components.data.datacard import Card
from components.download import gather
from components.download.config import DownloadConfig, Shape
from components.download.gather import Row, Rows
from components.download.vocabulary import check_fit
from components.storage import fetch, hub_address
from model.tokenizer import load_tokenizer, train_tokenizer

SMALL, WEIGHTS = ["*.json", "*.jinja"], ["*.safetensors"]
LEARNED = 50_000  # rows of a part that a new tokenizer learns from at most


def run(config: DownloadConfig, *, model: Output, dataset: Output, metrics: Output) -> None:
    """Writes the base model with its tokenizer, and the parts of the dataset with a report."""
    parts = gather.parts(config)
    if config.model == "new":
        parameters, address = _make_model(config.shape, config.seed, parts, model), None
    else:
        parameters, address = _fetch_model(config.model, config.revision, model)
    tokenizer = load_tokenizer(model)
    cards = {part: _write(part, rows, config, tokenizer, dataset) for part, rows in parts.items()}
    datacard.write(dataset, cards)
    summary = {"parameters": parameters, "hub_model": address, **datacard.summary(cards)}
    (metrics / artifact.METRICS).write_text(json.dumps(summary) + "\n")
    artifact.record(
        {"model": model, "dataset": dataset, "metrics": metrics},
        stage="download",
        config=config,
        inputs={},
        summary=summary,
    )


def _write(
    part: str, rows: Rows, config: DownloadConfig, tokenizer: PreTrainedTokenizerBase, dataset: Path
) -> Card:
    """Writes one part of the dataset; returns its figures."""
    card, has_sources = Card(), bool(getattr(config, part))
    if part == "pretrain":
        if not has_sources:
            data.write(dataset, part, rows(Card()))
        sample = config.sample if has_sources else corpus.ALL
        texts = (row["text"] for row in rows(card))
        corpus.write(dataset / "pretrain", texts, tokenizer, sample, card)
    else:
        longest, count = (config.max_tokens, config.examples) if has_sources else (None, None)
        data.write(dataset, part, _limited(part, rows(card), tokenizer, longest, count, card))
        if not card.documents:
            raise ValueError(f"{part}: no row is left; dropped: {card.losses}")
    if card.dropped:
        print(f"download: {part}: kept {card.documents}, dropped {card.losses}", flush=True)
    return card


def _limited(
    part: str,
    rows: Iterator[Row],
    tokenizer: PreTrainedTokenizerBase,
    longest: int | None,
    count: int | None,
    card: Card,
) -> Iterator[Row]:
    """Up to `count` rows of up to `longest` tokens; the card gets every row."""
    while count is None or card.documents < count:
        row = next(rows, None)
        if row is None:
            return
        tokens = data.tokens(part, row, tokenizer)
        if longest is not None and tokens > longest:
            card.drop("too_long")
            continue
        card.add(tokens, json.dumps(row, ensure_ascii=False))
        yield row


def _make_model(shape: Shape, seed: int, parts: dict[str, Rows], path: Path) -> int:
    """A new LLaDA and a tokenizer trained on the data; returns the number of parameters."""
    tokenizer = train_tokenizer(_learned(parts), vocabulary=shape.vocabulary)
    ids = tokenizer.mask_token_id, tokenizer.eos_token_id
    parameters = _apart("make", shape, seed, *ids, path)
    tokenizer.save_pretrained(path)
    return parameters


def _learned(parts: dict[str, Rows]) -> Iterator[str]:
    """The documents and dialogue turns that a new tokenizer learns from."""
    if "pretrain" in parts:
        for row in itertools.islice(parts["pretrain"](Card()), LEARNED):
            yield row["text"]
    if "sft" in parts:
        for row in itertools.islice(parts["sft"](Card()), LEARNED):
            yield from (f"{turn['role']}\n\n{turn['content']}" for turn in row["messages"])


def _fetch_model(name: str, revision: str | None, path: Path) -> tuple[int, str | None]:
    """Copies a checkpoint and its tokenizer, without the code that upstream ships beside them.

    Returns the number of parameters, and OWNER/NAME@COMMIT where the Hub has it. The small files
    come first: what they say is wrong is said before the weights are fetched.
    """
    source = _copy(name, revision, SMALL, path)
    check_fit(path)
    address = hub_address(name, source)
    # A branch may move between the two: the weights are of the commit of the small files.
    _copy(name, address.partition("@")[2] if address else revision, WEIGHTS, path)
    parameters = _apart("check", path)
    load_tokenizer(path).save_pretrained(path)
    return parameters, address


def _copy(name: str, revision: str | None, patterns: list[str], path: Path) -> Path:
    """Copies the files that match, but no stage's record of its own; returns where they were."""
    source = fetch(name, revision, kind="model", patterns=patterns)
    for pattern in patterns:
        for file in source.glob(pattern):
            if file.name != artifact.RECORD:
                shutil.copyfile(file, path / file.name)
    return source


def _apart(function: str, *arguments: Any) -> int:
    """What a function of `base_model` returns, or raises, in a process of its own.

    A process that has imported the model already would save nothing, and calls it itself.
    """
    if "model.llada" in sys.modules:
        return _base_model(function, *arguments)
    # With one task the process ends after it, even where this one was killed meanwhile.
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        return pool.submit(_base_model, function, *arguments).result()


def _base_model(function: str, *arguments: Any) -> int:
    return getattr(importlib.import_module("components.download.base_model"), function)(*arguments)
