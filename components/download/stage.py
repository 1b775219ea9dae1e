"""Fetches the base model and the data, or makes both for a run that needs nothing from outside."""

import functools
import importlib
import itertools
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from components import artifact, temporary
from components import references as by_reference
from components.artifact import Output, References
from components.data import corpus, datacard
from components.data import dataset as data
from components.data.contamination import TestSet
from components.data.datacard import Card
from components.data.jsonlines import Row
from components.download import gather, illada, mirror
from components.download.config import DownloadConfig, Shape
from components.download.gather import Stream
from components.download.vocabulary import check_fit
from components.storage import fetch, hub_address
from model import safetensors_files
from model.options import check
from model.tokenizer import load_tokenizer, train_tokenizer

SMALL, WEIGHTS = ["*.json", "*.jinja"], ["*.safetensors"]
LARGEST = 256 << 20  # bytes of a configuration or a tokenizer that are copied
VOCABULARY_ROWS = 50_000  # rows of a part that a new tokenizer learns from at most
BASE_MODEL = "components.download.base_model"  # never imported here: `_in_child` says why


def run(config: DownloadConfig, *, model: Output, dataset: Output, metrics: Output) -> None:
    """Writes the base model with its tokenizer, and every part of the dataset with a report."""
    parts, held_out = gather.parts(config), gather.held_out(config)
    references: dict[str, References] = {}
    if config.model == "new":
        parameters, address = _make_model(config.shape, config.seed, parts, model), None
    elif config.mirror is None:
        parameters, address = _fetch_model(config.model, config.revision, model)
    elif mirror.holds(config.mirror, config.model):
        parameters, address, references["model"] = _refer_in_place(config, model)
    else:
        parameters, address, references["model"] = _refer(config, model)
    tokenizer = load_tokenizer(model)
    cards = _write_all(parts, config, tokenizer, dataset, held_out)
    datacard.write(dataset, cards)
    summary = {"parameters": parameters, "hub_model": address, **datacard.summary(cards)}
    (metrics / artifact.METRICS).write_text(json.dumps(summary) + "\n")
    artifact.record(
        {"model": model, "dataset": dataset, "metrics": metrics},
        stage="download",
        config=config,
        inputs={},
        summary=summary,
        references=references,
    )


def _write_all(
    parts: dict[str, Stream],
    config: DownloadConfig,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Path,
    held_out: Stream,
) -> dict[str, Card]:
    """Writes every part of the dataset, the test first; returns the figures in the parts' order."""
    cards: dict[str, Card] = {}
    origins: list[str] = []
    tests = TestSet(lambda: iter(()), origins)
    if config.held_out and config.decontaminate and "test" not in parts:
        tests = _test_set(dataset, origins, held_out)
    for part in sorted(parts, key=lambda part: part != "test"):
        card = cards[part] = Card()
        rows = parts[part](card)
        if part == "pretrain":
            _write_texts(rows, config, tokenizer, dataset, card, tests)
        else:
            rows = tests.without(part, rows, card)
            rows = _limited(part, rows, config, tokenizer, card)
            rows = _noting(rows, card, origins) if part == "test" else rows
            data.write(dataset, part, rows)
            if not card.documents:
                raise ValueError(f"{part}: no row is left; dropped: {card.losses}")
        if part == "test" and config.decontaminate and (config.sources or config.dataset):
            tests = _test_set(dataset, origins, held_out)
        if card.dropped:
            print(f"download: {part}: kept {card.documents}, dropped {card.losses}", flush=True)
        for test, count in card.in_training.items():
            print(f"download: {part}: holds {count} problems of {test}, left out", flush=True)
    return {part: cards[part] for part in parts}


def _test_set(dataset: Path, origins: list[str], held_out: Stream) -> TestSet:
    """The problems of the test part, whose sources are `origins`, and those of further tests."""
    card, others, own = Card(), [], len(origins)
    for row in held_out(card):
        others.append(row)
        origins.append(card.source)

    def rows() -> Iterator[Row]:
        here = data.stream(dataset, "test") if (dataset / "test.jsonl").is_file() else iter(())
        return itertools.chain(here, others)

    return TestSet(rows, origins, own)


def _write_texts(
    rows: Iterator[Row],
    config: DownloadConfig,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Path,
    card: Card,
    tests: TestSet,
) -> None:
    """Writes the pretraining documents; those of a dataset's file are kept as texts too."""
    folder, clean = dataset / "pretrain", functools.partial(tests.clean, card=card)
    if config.pretrain:
        texts = (row["text"] for row in rows)
        corpus.write(folder, texts, tokenizer, config.sample, card, clean)
        return
    pieces = ({"text": piece} for row in rows for piece in clean(row["text"]))
    texts = (row["text"] for row in data.copied(dataset, "pretrain", pieces))
    corpus.write(folder, texts, tokenizer, corpus.ALL, card)


def _noting(rows: Iterator[Row], card: Card, origins: list[str]) -> Iterator[Row]:
    """The rows; the source of each goes to `origins`."""
    for row in rows:
        origins.append(card.source)
        yield row


def _limited(
    part: str,
    rows: Iterator[Row],
    config: DownloadConfig,
    tokenizer: PreTrainedTokenizerBase,
    card: Card,
) -> Iterator[Row]:
    """The rows, of sources the first `examples` of up to `max_tokens`; counted on the card."""
    has_sources = bool(getattr(config, part))
    longest, count = (config.max_tokens, config.examples) if has_sources else (None, None)
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


def _make_model(shape: Shape, seed: int, parts: dict[str, Stream], path: Path) -> int:
    """A new LLaDA and a tokenizer trained on the data; returns the number of parameters."""
    tokenizer = train_tokenizer(_vocabulary_texts(parts), vocabulary=shape.vocabulary)
    ids = tokenizer.mask_token_id, tokenizer.eos_token_id
    parameters = _in_child(_make_weights, shape, seed, *ids, path)
    tokenizer.save_pretrained(path)
    return parameters


def _vocabulary_texts(parts: dict[str, Stream]) -> Iterator[str]:
    """The documents and dialogue turns that a new tokenizer learns from."""
    if "pretrain" in parts:
        for row in itertools.islice(parts["pretrain"](Card()), VOCABULARY_ROWS):
            yield row["text"]
    if "sft" in parts:
        for row in itertools.islice(parts["sft"](Card()), VOCABULARY_ROWS):
            yield from (f"{turn['role']}\n\n{turn['content']}" for turn in row["messages"])


def _fetch_model(name: str, revision: str | None, path: Path) -> tuple[int, str | None]:
    """Copies a checkpoint and its tokenizer, without the Python code that upstream ships with them.

    Returns the number of parameters, and OWNER/NAME@COMMIT of a model on the Hub. The small files
    come first, so that a model that does not fit is refused before its weights are fetched.
    """
    source = _copy(name, revision, SMALL, path)
    illada.rewrite_settings(path)
    check_fit(path)
    address = hub_address(name, source)
    # The branch may have moved since: the weights must be of the commit of the small files.
    _copy(name, address.partition("@")[2] if address else revision, WEIGHTS, path)
    illada.rewrite_weights(path)
    parameters = _checked(name, path)
    load_tokenizer(path).save_pretrained(path)
    return parameters, address


def _refer(config: DownloadConfig, path: Path) -> tuple[int, str | None, References]:
    """As `_fetch_model`, but for the weights, which are in the mirror and are referred to.

    A model of the Hub that is there already is not fetched again.
    """
    assert config.mirror is not None
    source = fetch(config.model, config.revision, kind="model", patterns=SMALL)
    address = hub_address(config.model, source)
    place = mirror.find(config.mirror, address) if address else None
    if place is None:
        # The branch may have moved since: the model must be of the commit in its address.
        revision = address.partition("@")[2] if address else config.revision
        with temporary.directory() as whole:
            parameters, _ = _fetch_model(config.model, revision, whole)
            place = mirror.put(config.mirror, address, whole, parameters)
    place.copy_small_files(path)
    return place.parameters, address, place.references(config.cache)


def _refer_in_place(config: DownloadConfig, path: Path) -> tuple[int, str | None, References]:
    """As `_refer`, for a model below the mirror: its weights are read once and copied nowhere."""
    _copy(config.model, None, SMALL, path)
    allowed = f"a LLaDA below the mirror {config.mirror}; an iLLaDA's tensors get other names, so "
    allowed += "that it has to lie outside of the mirror, or on the Hub, and is kept as a LLaDA"
    check("model", config.model, not illada.is_original(path), allowed)
    check_fit(path)
    locations = mirror.weights_at(config.model)
    with by_reference.measured(path, locations) as (whole, facts):
        parameters = _checked(config.model, whole)
    load_tokenizer(path).save_pretrained(path)
    return parameters, None, References(facts, {"files": locations, "cache": config.cache})


def _copy(name: str, revision: str | None, patterns: list[str], path: Path) -> Path:
    """Copies the files that match, but not the record of another artifact; returns their folder.

    Raises ValueError naming one that is no file, or that is too large for what it should be: a link
    to a device would fill the disk.
    """
    source = fetch(name, revision, kind="model", patterns=patterns)
    files = [file for pattern in patterns for file in source.glob(pattern)]
    files = [file for file in files if file.name != artifact.RECORD]
    for file in files:
        safetensors_files.refuse_no_file(file)
        if patterns is SMALL and (size := file.stat().st_size) > LARGEST:
            raise ValueError(f"{file}: {size} bytes, allowed: up to {LARGEST}")
    for file in files:
        shutil.copyfile(file, path / file.name)
    return source


def _checked(name: str, path: Path) -> int:
    """The number of parameters of the base `name` whose files are at `path`.

    Raises ValueError naming the base: the path, which may be a temporary one, says nothing.
    """
    try:
        return _in_child(_check_weights, path)
    except ValueError as error:
        reason = str(error).removeprefix(f"{path}: ").replace(f"{path}/", "")
        allowed = "weights that fit its config.json"
        raise ValueError(f"model={name!r}, allowed: {allowed}: {reason}") from None


def _in_child(function: Callable[..., int], *arguments: Any) -> int:
    """Runs a function that imports `base_model` in a child process.

    So its imports, 120 MB, are freed afterwards; in this process if they are loaded already.
    """
    if "model.llada" in sys.modules:
        return function(*arguments)
    # One task per child: it ends after its task even if this process is killed meanwhile.
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        return pool.submit(function, *arguments).result()


def _make_weights(shape: Shape, seed: int, mask_id: int, eos_id: int, path: Path) -> int:
    return importlib.import_module(BASE_MODEL).make(shape, seed, mask_id, eos_id, path)


def _check_weights(path: Path) -> int:
    return importlib.import_module(BASE_MODEL).check(path)
