"""10,000 hostile cases through every reader of a stranger's input, a stored corpus among them.

`hostile.py` says what must hold. The readers are those that the stages call; the stored cases go
through the real commands in test_hostile_commands.py, other faults in
tests/components/test_refusals.py.
"""

import contextlib
import json
import struct
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components import artifact, coerce, executor, names, records, written
from components.data import conversations, dataset
from components.data.token_shards import Shards, fingerprint
from components.preflight.config import Recipe
from components.storage import MANIFEST, directories
from model import checkpoint, lora, safetensors_files
from model.adapter_settings import Settings
from model.config import read_config
from tests.components.test_refusals import made
from tests.faults.hostile import CASES, bounded, cases, changed, each, stored, values


def test_there_are_ten_thousand():
    assert sum(CASES.values()) >= 10_000


RECIPE = {name: {} for name in Recipe.__dataclass_fields__ if name != "preference"}
FULL = {
    "preference": "grpo",
    **RECIPE,
    "sft": {"steps": 3, "lora": {"rank": 4, "targets": ["q_proj"]}, "objective": {"band": [0, 1]}},
    "grpo": {"judge": {"url": "http://localhost/v1", "model": "m"}, "rewards": [["verified", 1.0]]},
    "download": {"model": "new", "shape": {"d_model": 32}, "sft": [{"location": "s3://b/k"}]},
    "evaluate": {"tasks": ["test"], "preset": None},
}


@each("configuration", changed(FULL))
def test_configurations(folder, case):
    coerce.build(Recipe, case)


CONFIG = {
    **{"model_type": "llada", "d_model": 64, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2},
    **{"mlp_hidden_size": 96, "vocab_size": 320, "embedding_size": None, "rope": True},
    **{"max_sequence_length": 128, "rope_theta": 500000.0, "rms_norm_eps": 1e-5},
    **{"weight_tying": False, "mask_token_id": 3, "eos_token_id": 1, "pad_token_id": 1},
    **{"dtype": "bfloat16", "architectures": ["LLaDAModelLM"], "yarn": True, "yarn_scale": 2.0},
    **{"yarn_beta_fast": 32.0, "mlp_ratio": 4, "attn_implementation": "eager", "num_labels": 2},
}


@each("config", changed(CONFIG))
def test_config_json(folder, case):
    (folder / "config.json").write_text(json.dumps(case))
    read_config(folder).to_dict()


def file_of(header, data=bytes(32)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


HEADER = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
}


@each("header", st.one_of(changed(HEADER).map(file_of), st.binary(max_size=64)))
def test_headers(folder, case):
    content = case.encode("latin-1") if isinstance(case, str) else case
    (folder / safetensors_files.SINGLE).write_bytes(content)
    for span in safetensors_files.find(folder).values():
        if span.shape and span.shape[0]:
            span.read(0, 1)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    checkpoint.inspect(folder)


ADAPTER = {
    **{"peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_rslora": False},
    **{"rank_pattern": {"q_proj": 2, ".*v_proj": 8}, "alpha_pattern": {"blocks.1.k_proj": 5}},
    **{"target_modules": ["q_proj"], "trainable_token_indices": {"wte": [3, 4]}},
    **{"init_lora_weights": True, "use_qalora": False, "target_parameters": None},
}


@each("adapter", changed(ADAPTER))
def test_adapters(folder, case):
    (folder / lora.CONFIG).write_text(json.dumps(case))
    settings = Settings(folder)
    for layer in ("model.transformer.blocks.1.v_proj", "model.transformer.wte"):
        settings.scale(layer, settings.rank(layer))
    settings.rows("model.transformer.wte", 16)


@each("index", changed({"metadata": {"total_size": 32}, "weight_map": {"a": "m.safetensors"}}))
def test_indexes(folder, case):
    (folder / "m.safetensors").write_bytes(file_of(HEADER))
    (folder / safetensors_files.INDEX).write_text(json.dumps(case))
    safetensors_files.find(folder)


ROWS = {
    "sft": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    "preferences": {"prompt": "a", "chosen": "b", "rejected": "c", "system": "s"},
    "problems": {"prompt": "a", "answer": "1", "verifier": "math", "solution": "x"},
}


@each("row", st.one_of(changed(ROWS), st.binary(max_size=80)))
def test_rows(folder, case):
    """Through the reader of a ready dataset, and through the conversion of another one's rows."""
    parts = case if isinstance(case, dict) else dict.fromkeys(ROWS, case)
    for part, row in parts.items():
        if part not in ROWS:
            continue
        content = row if isinstance(row, bytes) else json.dumps(row).encode()
        (folder / f"{part}.jsonl").write_bytes(content)
        with bounded(folder):
            dataset.read(folder, part)
        convert = {
            "sft": conversations.conversation,
            "preferences": conversations.preference,
            "problems": lambda row: conversations.problem(row, "math"),
        }[part]
        if isinstance(row, dict):
            with bounded(folder):
                convert(row)


DECLARED = {"name": "x", "type": {"schemaTitle": "system.Metrics"}, "metadata": {}}
TASK = {
    "inputs": {},
    "outputs": {"outputFile": "out.json", "artifacts": {"model": {"artifacts": [DECLARED]}}},
}


@each("executor", changed(TASK))
def test_executor_inputs(folder, case):
    target = executor.parse(json.dumps(case), {"model": None})
    executor.report({**target, "outputFile": str(folder / "out.json")}, {"model": folder / "no"})


PARTS = st.sampled_from(
    ["..", ".", "", "a", "b" * 256, "\0", "~", "C:", "\\", "\u2024\u2024", "%2e"]
)
NAMES = st.one_of(st.lists(st.one_of(PARTS, st.text(max_size=4)), max_size=4).map("/".join), values)


@each("name", NAMES)
def test_object_names(folder, case):
    name = names.check(case, "a bucket")
    place = (folder / name).resolve()
    assert place.is_relative_to(folder.resolve()) and place != folder.resolve()
    names.check_all([name, "a"], "a bucket")


LISTED = {"files": {"a": {"bytes": 1, "sha256": "f" * 64}, "b/c": {"bytes": 1, "sha256": "0"}}}
SHARDS = {
    **{"format": 1, "dtype": "uint32", "documents": 1, "tokens": 2},
    "shards": [{"file": "tokens-00000.bin", "documents": 1, "tokens": 2}],
}


@each("manifest", st.tuples(changed({**LISTED, "data": ""}), changed(SHARDS)))
def test_manifests(folder, case):
    """Of a directory in storage, and of tokenised documents."""
    there, shards = folder / "there", folder / "shards"
    for path in (there, shards):
        path.mkdir(exist_ok=True)
    (there / "a").write_text("x")
    (there / MANIFEST).write_text(json.dumps(case[0]))
    with bounded(folder):
        directories.get_directory(there, folder / "here")
    own = types.SimpleNamespace(get_vocab=lambda: {"a": 0})
    content = case[1]
    if isinstance(content, dict):
        content = {**content, "tokenizer": fingerprint(own)}
    (shards / "manifest.json").write_text(json.dumps(content))
    for name, count in (("lengths.bin", 1), ("tokens-00000.bin", 2)):
        (shards / name).write_bytes(struct.pack("<I", 2) * count)
    for number in range(len(Shards(shards, own))):
        Shards(shards, own).tokens(number)


@pytest.fixture(scope="session")
def record(tmp_path_factory):
    path = made(tmp_path_factory.mktemp("record") / "made")
    return json.loads((path / artifact.RECORD).read_text())


def test_records(record, tmp_path_factory):
    """Sealed anew, as a stranger could, and as they are."""
    folder = tmp_path_factory.mktemp("records")
    count = 0

    def one(case):
        nonlocal count
        count += 1
        with bounded(folder):
            content = case
            # What has too little of a record cannot be sealed.
            with contextlib.suppress(KeyError, TypeError, IndexError, AttributeError):
                content = records.sealed(case)
            (folder / artifact.RECORD).write_bytes(records.dump(content))
            artifact.provenance(artifact.read(folder))
            artifact.verify(folder)

    for case in stored("record"):
        one({**record, **case} if isinstance(case, dict) else case)
    cases(CASES["record"])(given(changed(record))(one))()
    assert count >= CASES["record"]


SCORE = {"score": 0.5, "standard_error": None, "problems": 4, "metric": "exact_match"}
RESULTS = {
    **{"task": "test", "tasks": {"test": SCORE}, "accuracy": 0.5, "correct": 2, "problems": 4},
    **{"standard_error": 0.1, "tokens_per_second": 1.0, "forward_passes_per_answer": 1.0},
    **{"too_long": 0, "unusable": 0},
}
TRACE = {"prompt": "1 + 1 =", "answer": "2", "correct": True, "passes": [[None, "a"], ["b", "a"]]}
STEP = {"step": 1, "loss": 0.5, "accuracy": 0.1}


@each("written", st.tuples(changed(RESULTS), changed(TRACE), changed(STEP)))
def test_what_stages_write(folder, case):
    """Results, traces and figures, as the report and the release read them."""
    for name, content, read in zip(
        ("results.json", "traces.jsonl", artifact.METRICS),
        case,
        (written.results, written.traces, written.curve),
        strict=True,
    ):
        (folder / name).write_text(json.dumps(content))
        with bounded(folder):
            read(folder)
