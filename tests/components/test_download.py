"""The made data: real problems, right solutions, wrong slips, and no test problem in training."""

import json
import re
import shutil
import subprocess
import sys

from safetensors.torch import load_file, save_file

from components import dataset as data
from components.artifact import RECORD
from components.download import arithmetic
from model import checkpoint, rewards, shards, tokenizer
from tests.conftest import ROOT


def rows(downloaded, part):
    return data.read(downloaded / "dataset", part)


def test_train_and_test_are_disjoint(downloaded):
    test = {row["prompt"] for row in rows(downloaded, "test")}
    assert len(test) == 250
    asked = {row["prompt"] for row in rows(downloaded, "problems")}
    preferred = {row["prompt"] for row in rows(downloaded, "preferences")}
    taught = {row["messages"][0]["content"] for row in rows(downloaded, "sft")}
    read = {re.match(r"\d+ \+ \d+ =", row["text"]).group() for row in rows(downloaded, "pretrain")}
    for part in (asked, preferred, taught, read):
        assert len(part) > 7000
        assert not part & test


def test_solutions_are_right_and_slips_are_wrong(downloaded):
    answers = {row["prompt"]: row["answer"] for row in rows(downloaded, "problems")}
    for prompt, answer in answers.items():
        first, second = map(int, re.findall(r"\d+", prompt))
        assert first + second == int(answer)
    for row in rows(downloaded, "preferences"):
        assert rewards.exact(row["chosen"], answers[row["prompt"]]) == 1.0
        assert rewards.exact(row["rejected"], answers[row["prompt"]]) == 0.0
        assert rewards.well_formed(row["chosen"]) and rewards.well_formed(row["rejected"])


def test_thought_holds_the_carry():
    (problem,) = [p for p in arithmetic.problems(seed=0) if p.question == "47 + 25 ="]
    assert problem.thought() == "7+5=12 4+2+1=7"
    assert problem.worked().endswith("72<|end_of_solution|>")


def test_seed_changes_the_split():
    assert arithmetic.problems(seed=1) != arithmetic.problems(seed=2)


def test_tokenizer_and_model_agree(downloaded):
    words = tokenizer.load(downloaded / "model")
    config = checkpoint.read_config(downloaded / "model")
    assert config.mask_token_id == words.mask_token_id
    assert config.eos_token_id == config.pad_token_id == words.eos_token_id
    assert len(words) <= config.embedding_size
    assert words.tokenize("47") == ["4", "7"]
    for token in (*tokenizer.CHAT, *tokenizer.REASONING, tokenizer.MASK):
        assert len(words.encode(token, add_special_tokens=False)) == 1
    ids = tokenizer.chat(words, [{"role": "user", "content": "1 + 1 ="}])
    text = words.decode(ids)
    assert text.startswith("<|startoftext|><|start_header_id|>user<|end_header_id|>\n\n1 + 1 =")
    assert text.endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")


def test_record_names_every_file(downloaded):
    root = downloaded / "dataset"
    record = json.loads((root / RECORD).read_text())
    there = {file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()}
    assert record["files"].keys() == there - {RECORD}
    made = {f"{part}.jsonl" for part in data.COLUMNS}
    assert there > made | {"pretrain/manifest.json", "report.json", "report.md"}
    assert [entry["output"] for entry in record["lineage"]] == ["dataset"]


def test_fetched_model_with_nan_is_refused(tmp_path, downloaded):
    """By the real command, in which the model is checked in a process of its own."""
    shutil.copytree(downloaded / "model", tmp_path / "source")
    file = tmp_path / "source" / shards.SINGLE
    weights = load_file(file)
    weights[checkpoint.EMBEDDING][7, 3] = float("nan")
    save_file(weights, file)
    config = ["--config", json.dumps({"model": str(tmp_path / "source")})]
    outputs = ("model", "dataset", "metrics")
    paths = [word for name in outputs for word in (f"--{name}", str(tmp_path / name))]
    command = [sys.executable, "-m", "components.download", *config, *paths]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"tensor {checkpoint.EMBEDDING} holds NaN" in line
    assert not (tmp_path / "model" / RECORD).exists()
