"""A model directory on a local path: config.json and safetensors, upstream's names, never pickle.

Reads a single file, or shards with an index; writes an index when there is more than one shard.
`model.safetensors_files` knows where tensors lie in the files.
"""

import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import safe_open
from safetensors.torch import save_file

from model import safetensors_files
from model.config import CONFIG as CONFIG
from model.config import LLaDAConfig
from model.config import read_config as read_config
from model.llada import LLaDA
from model.options import check
from model.safetensors_files import INDEX, Span

# Threads that copy to a GPU. 8.2 GB took 1.68 s with one thread, 0.55 with four, 0.39 with eight.
READERS = 8
SHOWN = 5  # missing tensors that an error names
ROWS = 4096  # rows of head and embedding that are compared at a time
HEAD, EMBEDDING = "model.transformer.ff_out.weight", "model.transformer.wte.weight"


def load(
    path: Path | str,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    check_finite: bool = False,
) -> LLaDA:
    """The model at `path`, in eval mode.

    On the CPU, weights that need no conversion stay memory-mapped and are read when first used. All
    others are read here and checked for NaN and infinity. `check_finite` checks mapped weights as
    well, which reads every file once and makes such a load several times slower.

    Raises ValueError naming the tensors that are missing, unknown, of the wrong shape or not
    finite, the file that is damaged, or the configuration key that is not allowed, and
    FileNotFoundError naming the file that does not exist.
    """
    model, spans = _open(Path(path))
    on_cpu = torch.device(device).type == "cpu"
    state: dict[str, torch.Tensor] = {}
    with ThreadPoolExecutor(READERS) as readers:
        each = map if on_cpu else readers.map  # on a CPU nothing is copied
        # One file at a time: its mapped pages count as resident memory until it is closed.
        for file, group in groupby(spans, key=lambda name: spans[name].file):
            names = list(group)
            with safe_open(file, framework="pt", device=str(device)) as tensors:
                read = partial(_read, file, tensors, dtype=dtype, check_finite=check_finite)
                state |= zip(names, each(read, names), strict=True)
    if model.config.weight_tying and HEAD in state:
        _drop_tied_head(Path(path), state)
    model.load_state_dict(state, assign=True)
    return model.eval()


def inspect(path: Path) -> tuple[LLaDAConfig, dict[str, Span]]:
    """The configuration, and the place of every tensor, checked by name and shape.

    No tensor data is read, so NaN is not noticed; otherwise raises the errors of `load`.
    """
    model, spans = _open(path)
    return model.config, spans


def check_tied_head(path: Path) -> None:
    """Raises ValueError if weights are tied but the files hold a head unlike the embedding."""
    config, spans = inspect(path)
    if not config.weight_tying or HEAD not in spans:
        return
    head, embedding = spans[HEAD], spans[EMBEDDING]
    for top in range(0, head.shape[0], ROWS):
        rows = top, min(top + ROWS, head.shape[0])
        if not torch.equal(head.read(*rows).float(), embedding.read(*rows).float()):
            raise ValueError(_differs(path))


def save(model: LLaDA, path: Path | str, *, shard_size: int | str = "4GB") -> None:
    """Writes config.json and the weights, sharded above `shard_size` bytes.

    All files are written to a draft folder, flushed to disk and then moved, config.json last. If
    the disk fills up, the old checkpoint is still there; after a crash between the moves there is
    no config.json, so that nothing loads a mixture. Saving over a loaded model is safe: its mapped
    weights are read before their files are replaced.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path, prefix=".draft-") as folder:
        draft = Path(folder)
        _write(model, draft, shard_size)
        for old in (path / CONFIG, *path.glob("model*.safetensors"), path / INDEX):
            old.unlink(missing_ok=True)
        for file in sorted(draft.iterdir(), key=lambda file: file.name == CONFIG):
            file.replace(path / file.name)


def refuse_nan(tensor: torch.Tensor, name: str) -> None:
    """Raises ValueError with `name` when a number is NaN or infinite.

    A sum is a single pass without a copy. It may overflow on finite numbers, so the numbers
    themselves decide where it is not finite.
    """
    if torch.isfinite(tensor.sum()):
        return
    for part in tensor.flatten().split(1 << 24):
        if not torch.isfinite(part).all():
            raise ValueError(f"{name} holds NaN or infinity, allowed: finite numbers")


def _open(path: Path) -> tuple[LLaDA, dict[str, Span]]:
    """The model on the meta device, and the places of its weights."""
    config = read_config(path)
    spans = safetensors_files.find(path)
    # Before the model is built: a thousand blocks take a while even without their weights.
    layers = config.n_layers
    check(f"{path / CONFIG}: n_layers", layers, layers <= len(spans), f"up to {len(spans)} tensors")
    with torch.device("meta"):
        model = LLaDA(config)
    expected = model.state_dict()
    allowed = {**expected, HEAD: expected[EMBEDDING]} if config.weight_tying else expected
    if unknown := sorted(spans.keys() - allowed.keys()):
        raise ValueError(f"{path}: unknown tensor {unknown[0]}")
    if missing := sorted(expected.keys() - spans.keys()):
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise ValueError(f"{path}: missing tensors: {', '.join(missing[:SHOWN])}{more}")
    for name, span in spans.items():
        if span.shape != tuple(allowed[name].shape):
            raise ValueError(
                f"{path}: tensor {name} has shape {span.shape}, "
                f"expected {tuple(allowed[name].shape)}"
            )
    return model, spans


def _read(
    file: Path, tensors: safe_open, name: str, *, dtype: torch.dtype, check_finite: bool
) -> torch.Tensor:
    """One tensor; unless it stays mapped, NaN is refused."""
    stored = tensors.get_tensor(name)
    tensor = stored.to(dtype)
    is_mapped = tensor is stored and tensor.device.type == "cpu"
    if check_finite or not is_mapped:
        refuse_nan(tensor, f"{file}: tensor {name}")
    return tensor


def _drop_tied_head(path: Path, state: dict[str, torch.Tensor]) -> None:
    if not torch.equal(state.pop(HEAD), state[EMBEDDING]):
        raise ValueError(_differs(path))


def _differs(path: Path) -> str:
    return f"{path}: {HEAD} differs from {EMBEDDING}, but weight_tying is true"


def _write(model: LLaDA, folder: Path, shard_size: int | str) -> None:
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    model.config.dtype = next(model.parameters()).dtype
    model.config.save_pretrained(folder)
    split = split_torch_state_dict_into_shards(state, max_shard_size=shard_size)
    for name, names in split.filename_to_tensors.items():
        save_file({key: state[key] for key in names}, folder / name, metadata={"format": "pt"})
        # safetensors makes files that only their owner may read.
        (folder / name).chmod((folder / CONFIG).stat().st_mode)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True))
    for file in folder.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())  # some file systems report a full disk only here
