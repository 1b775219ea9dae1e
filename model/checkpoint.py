"""A model directory on a local path: config.json and safetensors, upstream's names, never pickle.

Reads a single file or shards with an index; writes shards with an index when there is more than
one. Records, checksums and object storage belong to the stages.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import safe_open
from safetensors.torch import save_file

from model.config import LLaDAConfig
from model.llada import LLaDA

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def load(
    path: Path | str, *, dtype: torch.dtype = torch.bfloat16, device: torch.device | str = "cpu"
) -> LLaDA:
    """The model at `path`, in eval mode.

    Raises ValueError naming the tensors that are missing, unknown or of the wrong shape, and
    FileNotFoundError naming the file that is not there.
    """
    path = Path(path)
    config = read_config(path)
    with torch.device("meta"):
        model = LLaDA(config)
    expected = model.state_dict()
    if config.weight_tying:
        expected.pop("model.transformer.ff_out.weight", None)
    found: dict[str, torch.Tensor] = {}
    for file in weight_files(path):
        with safe_open(file, framework="pt", device=str(device)) as tensors:
            for name in tensors.keys():
                if name in expected:
                    _check_shape(path, name, tensors.get_slice(name).get_shape(), expected[name])
                    found[name] = tensors.get_tensor(name).to(dtype)
                elif not (config.weight_tying and name == "model.transformer.ff_out.weight"):
                    raise ValueError(f"{path}: unknown tensor {name}")
    if missing := sorted(expected.keys() - found.keys()):
        raise ValueError(f"{path}: missing tensors: {', '.join(missing)}")
    model.load_state_dict(found, assign=True)
    return model.eval()


def save(model: LLaDA, path: Path | str, *, shard_size: int | str = "4GB") -> None:
    """Writes config.json and the weights, sharded above `shard_size` bytes."""
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    split = split_torch_state_dict_into_shards(state, max_shard_size=shard_size)
    for file, names in split.filename_to_tensors.items():
        save_file({name: state[name] for name in names}, path / file, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (path / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True))
    model.config.dtype = next(model.parameters()).dtype
    model.config.save_pretrained(path)


def read_config(path: Path) -> LLaDAConfig:
    """The configuration in config.json; ValueError when it is another kind of model."""
    values = json.loads((path / "config.json").read_text())
    kind = values.pop("model_type", None)
    if kind != LLaDAConfig.model_type:
        raise ValueError(f"{path / 'config.json'}: model_type={kind!r}, allowed: 'llada'")
    return LLaDAConfig(**values)


def weight_files(path: Path) -> list[Path]:
    """The safetensors files of a model directory, in the index's order."""
    if (path / INDEX).exists():
        names = json.loads((path / INDEX).read_text())["weight_map"].values()
        return [path / name for name in dict.fromkeys(names)]
    if not (path / SINGLE).exists():
        raise FileNotFoundError(f"{path}: neither {SINGLE} nor {INDEX} is there")
    return [path / SINGLE]


def tensor_names(path: Path) -> Iterator[tuple[Path, str]]:
    """Each weight file and tensor name of a model directory, without reading the data."""
    for file in weight_files(path):
        with safe_open(file, framework="pt") as tensors:
            yield from ((file, name) for name in tensors.keys())


def _check_shape(path: Path, name: str, shape: list[int], expected: torch.Tensor) -> None:
    if tuple(shape) != tuple(expected.shape):
        raise ValueError(
            f"{path}: tensor {name} has shape {tuple(shape)}, expected {tuple(expected.shape)}"
        )
