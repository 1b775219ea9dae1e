"""Merging a rank-128 adapter into 4 GB of bf16 weights: ours against peft.

peft: load, attach, `merge_and_unload`, `save_pretrained`. Ours: `components.merge`'s own work, from
directory to directory. Both write to the same disk and neither waits for it; before each the disk
has written what came earlier, or one way would wait for the other's pages. Memory is the process's
resident set; pages of files that a process maps count, pages of the kernel's cache of files that
it reads or writes do not.
"""

import os
import shutil
import tempfile
import warnings
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from benchmarks import checkpoints
from benchmarks.measure import Row, extra_bytes, seconds
from components.merge.stage import merge
from model import checkpoint, lora, safetensors_files
from model.llada import LLaDA

LAYERS = 5  # 4.3 GB
TARGETS = ("q_proj", "k_proj", "v_proj", "attn_out")


def rows(device: str) -> list[Row]:
    """Seconds and extra peak memory of the process; peft merges on `device`."""
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        size = checkpoints.write(root / "base", layers=LAYERS)
        write_adapter(root / "base", root / "adapter")

        def peft() -> None:
            base = LLaDA.from_pretrained(root / "base", dtype=torch.bfloat16, device_map=device)
            merged = PeftModel.from_pretrained(base, root / "adapter").merge_and_unload()
            merged.save_pretrained(_empty(root / "peft"))

        def ours() -> None:
            merge(root / "base", [root / "adapter"], _empty(root / "ours"))

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            times = seconds(peft, ours, before=os.sync, device=device)
            memory = [extra_bytes(way) for way in (peft, ours)]
        _compare(root / "peft", root / "ours")
    work = f"merge rank 128 into {size / 1e9:.1f} GB"
    return [
        _row(work, "s", *times, bar=1.0),
        _row(f"{work}, peak memory", "GB", *(used / 1e9 for used in memory), bar=5.0),
    ]


def write_adapter(base: Path, adapter: Path, *, rank: int = 128) -> None:
    """A trained adapter: both matrices of every pair are away from zero."""
    with torch.device("meta"):
        model = LLaDA(checkpoint.read_config(base))
        wrapped = lora.attach(model, rank=rank, alpha=2 * rank, dropout=0.05, targets=TARGETS)
    shapes = {name: t.shape for name, t in wrapped.state_dict().items() if ".lora_" in name}
    wrapped.peft_config["default"].save_pretrained(str(adapter))
    tensors = {
        name.replace(".default", ""): 0.01 * torch.randn(shape) for name, shape in shapes.items()
    }
    save_file(tensors, adapter / lora.WEIGHTS)


def _empty(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    return path


def _compare(peft: Path, ours: Path) -> None:
    """Raises AssertionError unless both wrote the same weights, to bf16's last bit."""
    expected = {
        n: t for file in safetensors_files.weight_files(peft) for n, t in load_file(file).items()
    }
    merged = {
        n: t for file in safetensors_files.weight_files(ours) for n, t in load_file(file).items()
    }
    assert merged.keys() == expected.keys()
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, expected[name], rtol=2**-7, atol=1e-6, msg=name)


def _row(work: str, unit: str, baseline: float, ours: float, *, bar: float) -> Row:
    return Row(
        work=work,
        against="peft merge_and_unload + save_pretrained",
        unit=unit,
        baseline=baseline,
        ours=ours,
        bar=bar,
    )
