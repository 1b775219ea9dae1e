"""Checkpoints that are damaged or disagree with themselves are refused by name."""

import json
import os
import re
import resource

import pytest
import torch
from safetensors.torch import load_file, save_file

from model import checkpoint, safetensors_files
from tests.model.test_checkpoint import NORM, saved, small


def rewrite(file, change):
    """Applies `change` to the tensors of a file."""
    state = load_file(file)
    change(state)
    save_file(state, file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop(NORM), "missing tensors: .*ln_f"),
        (lambda state: state.update(extra=torch.ones(2)), "unknown tensor extra"),
        (
            lambda state: state.update({NORM: torch.ones(3)}),
            r"ln_f.weight has shape \(3,\), expected \(64,\)",
        ),
        (
            lambda state: state.update({NORM: torch.ones(64, dtype=torch.int32)}),
            "ln_f.weight is I32, allowed: BF16, F16, F32",
        ),
    ],
)
def test_wrong_tensors_are_named(tmp_path, change, message):
    rewrite(saved(tmp_path) / safetensors_files.SINGLE, change)
    with pytest.raises(ValueError, match=message):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("options", [{"dtype": torch.float32, "check_finite": True}, {}])
def test_nan_is_named(tmp_path, value, options):
    """Where weights are converted it is refused by itself, in mapped weights when asked."""
    rewrite(
        saved(tmp_path) / safetensors_files.SINGLE, lambda state: state[NORM].__setitem__(3, value)
    )
    with pytest.raises(ValueError, match=f"tensor {re.escape(NORM)} holds NaN or infinity"):
        checkpoint.load(tmp_path, **options)


def test_large_finite_weights_are_not_refused(tmp_path):
    large = small().half()
    large.model["transformer"]["ln_f"].weight.data.fill_(60000)  # the sum is beyond fp16
    checkpoint.load(saved(tmp_path, large), dtype=torch.float16, check_finite=True)


@pytest.mark.parametrize("keep", [3, 100, -1])
def test_truncated_file_is_named(tmp_path, keep):
    file = saved(tmp_path) / safetensors_files.SINGLE
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model.safetensors: truncated, or not a safetensors"):
        checkpoint.load(tmp_path)


def test_tied_head_that_differs_is_refused(tmp_path):
    file = saved(tmp_path, small(weight_tying=True)) / safetensors_files.SINGLE
    rewrite(
        file, lambda state: state.update({checkpoint.HEAD: state[checkpoint.EMBEDDING].clone()})
    )
    assert checkpoint.HEAD not in checkpoint.load(tmp_path).state_dict()
    rewrite(file, lambda state: state[checkpoint.HEAD][0].add_(1))
    with pytest.raises(ValueError, match="weight_tying is true"):
        checkpoint.load(tmp_path)


def test_config_missing_or_not_json(tmp_path):
    (saved(tmp_path) / "config.json").write_text("{not")
    with pytest.raises(ValueError, match=r"config.json: not JSON"):
        checkpoint.load(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="holds a list, allowed: a JSON object"):
        checkpoint.load(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config.json: no such file"):
        checkpoint.load(tmp_path)


def sharded(path):
    """A sharded checkpoint, its index and the names of its shards."""
    saved(path, shard_size=100_000)
    index = json.loads((path / safetensors_files.INDEX).read_text())
    return index, sorted(set(index["weight_map"].values()))


def test_index_that_names_a_missing_file(tmp_path):
    _, files = sharded(tmp_path)
    (tmp_path / files[1]).unlink()
    with pytest.raises(FileNotFoundError, match=f"names {files[1]}, which is not there"):
        checkpoint.load(tmp_path)


def test_no_weights_at_all(tmp_path):
    (saved(tmp_path) / safetensors_files.SINGLE).unlink()
    with pytest.raises(FileNotFoundError, match=r"neither model.safetensors nor"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda places, files: places.update({NORM: files[0]}), "puts .*ln_f.* does not hold it"),
        (lambda places, files: places.update(extra=files[0]), "puts extra in .* does not hold it"),
        (lambda places, files: places.pop(NORM), "does not list .*ln_f"),
        (lambda places, files: places.update({NORM: "../x.safetensors"}), "a file beside it"),
        (lambda places, files: places.update({NORM: ""}), "a file beside it"),
        (lambda places, files: places.update({NORM: ".."}), "a file beside it"),
        (lambda places, files: places.update({NORM: "x" * 256}), "a file beside it"),
        (lambda places, files: places.update({NORM: "\0"}), "a file beside it"),
        (lambda places, files: places.clear(), "no weight_map"),
    ],
)
def test_index_that_disagrees_with_its_shards(tmp_path, change, message):
    index, files = sharded(tmp_path)
    change(index["weight_map"], files)
    (tmp_path / safetensors_files.INDEX).write_text(json.dumps(index))
    with pytest.raises(ValueError, match=message):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
@pytest.mark.parametrize("name", ["config.json", safetensors_files.SINGLE])
def test_what_is_no_file_is_not_read(tmp_path, name, make):
    """Reading a pipe would wait for ever."""
    (saved(tmp_path) / name).unlink()
    make(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name}: allowed: a file; a folder, pipe, device"):
        checkpoint.load(tmp_path)


def test_tensor_in_two_shards_is_refused(tmp_path):
    _, files = sharded(tmp_path)
    rewrite(tmp_path / files[0], lambda state: state.update({NORM: torch.ones(64)}))
    with pytest.raises(ValueError, match=r"ln_f.weight is in .* too"):
        checkpoint.load(tmp_path)


def test_full_disk_leaves_what_was_there(tmp_path):
    before = small()
    saved(tmp_path, before)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(Exception, match="File too large"):
            checkpoint.save(small(mlp_hidden_size=400), tmp_path, shard_size=300_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "config.json",
        safetensors_files.SINGLE,
    ]
    loaded = checkpoint.load(tmp_path, dtype=torch.float32).state_dict()
    for name, tensor in before.state_dict().items():
        assert torch.equal(loaded[name], tensor), name
