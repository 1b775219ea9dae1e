"""The made data: real problems, right solutions, wrong slips, and no test problem in training."""

import json
import random
import re
import shutil
import subprocess
import sys

from safetensors.torch import load_file, save_file

from components.artifact import RECORD
from components.data import arithmetic
from components.data import dataset as data
from components.rewards import named
from model import checkpoint, safetensors_files
from model.tokenizer import CHAT, MASK, REASONING, encode, encode_chat, load_tokenizer
from tests.conftest import ROOT


def rows(downloaded, part):
    return data.read(downloaded / "dataset", part)


def pairs(texts):
    """The two terms of each sum, in either order."""
    sums = [re.match(r"(\d{3}) \+ (\d{3}) =", text) for text in texts]
    return {frozenset(found.groups()) for found in sums if found}


def test_train_and_test_are_disjoint_whatever_the_order_of_the_terms(downloaded):
    test = pairs(row["prompt"] for row in rows(downloaded, "test"))
    assert len(test) == 250
    asked = pairs(row["prompt"] for row in rows(downloaded, "problems"))
    preferred = pairs(row["prompt"] for row in rows(downloaded, "preferences"))
    taught = pairs(row["messages"][0]["content"] for row in rows(downloaded, "sft"))
    read = pairs(row["text"] for row in rows(downloaded, "pretrain"))
    for part in (asked, preferred, taught, read):
        assert len(part) == 64 * 65 / 2 - 250
        assert not part & test


def test_the_pupil_forgets_most_carries_from_the_units(downloaded):
    """Never anything else: what it writes is wrong in that digit and what follows from it."""
    answers = {row["prompt"]: row["answer"] for row in rows(downloaded, "problems")}
    carries = forgotten = 0
    for row in rows(downloaded, "sft"):
        asked, told = (message["content"] for message in row["messages"])
        first, second = map(int, re.findall(r"\d+", asked))
        is_right = named.exact(told, answers[asked]) == 1.0
        if first % 10 + second % 10 < 10:
            assert is_right
            continue
        carries += 1
        forgotten += not is_right
        if not is_right:
            assert named.solution(told) == str(first + second - 10)
    assert abs(forgotten / carries - arithmetic.FORGETS) < 0.04


def test_solutions_are_right_and_slips_are_wrong(downloaded):
    answers = {row["prompt"]: row["answer"] for row in rows(downloaded, "problems")}
    for prompt, answer in answers.items():
        first, second = map(int, re.findall(r"\d+", prompt))
        assert first + second == int(answer)
    for row in rows(downloaded, "preferences"):
        assert named.exact(row["chosen"], answers[row["prompt"]]) == 1.0
        assert named.exact(row["rejected"], answers[row["prompt"]]) == 0.0
        assert named.well_formed(row["chosen"]) and named.well_formed(row["rejected"])


def test_thought_holds_the_carry():
    problem = arithmetic.Sum(137, 375)
    assert problem.work() == ("7+5=twelve 3+7+1=eleven 1+3+1=five", "512")
    assert problem.work("carry") == ("7+5=twelve 3+7+0=ten 1+3+1=five", "502")
    assert problem.worked().endswith("512<|end_of_solution|>")


def test_a_fact_is_a_token(downloaded):
    """What the small model learns steadily by: a sum is one of some classes, not two digits."""
    tokenizer = load_tokenizer(downloaded / "model")
    for word in arithmetic.WORDS[2:16]:
        assert len(encode(tokenizer, [f"1+1={word}"])[0]) == 5


def test_seed_changes_the_split():
    splits = [arithmetic.split(arithmetic.sums(), 250, random.Random(n))[0] for n in (1, 1, 2)]
    assert splits[0] == splits[1] != splits[2]


def test_tokenizer_and_model_agree(downloaded):
    tokenizer = load_tokenizer(downloaded / "model")
    config = checkpoint.read_config(downloaded / "model")
    assert config.mask_token_id == tokenizer.mask_token_id
    assert config.eos_token_id == config.pad_token_id == tokenizer.eos_token_id
    assert len(tokenizer) <= config.embedding_size
    assert tokenizer.tokenize("47") == ["4", "7"]
    for token in (*CHAT, *REASONING, MASK):
        assert len(tokenizer.encode(token, add_special_tokens=False)) == 1
    ids = encode_chat(tokenizer, [{"role": "user", "content": "1 + 1 ="}])
    text = tokenizer.decode(ids)
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
    file = tmp_path / "source" / safetensors_files.SINGLE
    weights = load_file(file)
    weights[checkpoint.EMBEDDING][7, 3] = float("nan")
    save_file(weights, file)
    config = ["--config", json.dumps({"model": str(tmp_path / "source"), "made": "sums"})]
    outputs = ("model", "dataset", "metrics")
    paths = [word for name in outputs for word in (f"--{name}", str(tmp_path / name))]
    command = [sys.executable, "-m", "components.download", *config, *paths]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"tensor {checkpoint.EMBEDDING} holds NaN" in line
    assert not (tmp_path / "model" / RECORD).exists()
