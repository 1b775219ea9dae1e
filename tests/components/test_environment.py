"""Nothing outside its configuration decides what a stage trains."""

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

HOSTILE = {
    "ACCELERATE_CPU_AFFINITY": "1",
    "ACCELERATE_DEBUG_MODE": "true",
    "ACCELERATE_DYNAMO_BACKEND": "inductor",
    "ACCELERATE_DYNAMO_MODE": "max-autotune",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_MIXED_PRECISION": "fp16",
    "ACCELERATE_TORCH_DEVICE": "meta",
    "ACCELERATE_USE_CPU": "true",
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_USE_FSDP": "true",
    "ACCELERATE_USE_MEGATRON_LM": "true",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "true",
    "FORK_LAUNCHED": "1",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
    "FSDP_VERSION": "2",
    "PARALLELISM_CONFIG_TP_SIZE": "2",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1",
}
COMMON = {"steps": 1, "batch_size": 4, "micro_batch_size": 2, "learning_rate": 1e-3}
ADAPTER = {"lora": {"rank": 4, "dropout": 0.0}}
CONFIGS = {
    "sft": {"max_length": 64, "precision": "fp32"},
    "pretrain": {"window": 48, **ADAPTER},
    "dpo": {"max_length": 64, "draws": 1, **ADAPTER},
    "grpo": {"group": 2, "gen_length": 8, "block_length": 8, **ADAPTER},
}


def weights(downloaded, place, name, hostile):
    """What the real command line writes, in a process of its own."""
    outputs = [place / "trained", place / "metrics"]
    command = [sys.executable, "-m", f"components.{name}"]
    command += ["--config", json.dumps({**COMMON, **CONFIGS[name]})]
    command += ["--base", downloaded / "model", "--dataset", downloaded / "dataset"]
    command += ["--trained", outputs[0], "--metrics", outputs[1]]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("ACCELERATE")}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**clean, **(HOSTILE if hostile else {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (file,) = outputs[0].glob("*.safetensors")
    return file.read_bytes()


@pytest.mark.parametrize("name", CONFIGS)
def test_a_hostile_environment_changes_no_bit(downloaded, tmp_path, name):
    ours = weights(downloaded, tmp_path / "clean", name, hostile=False)
    assert weights(downloaded, tmp_path / "hostile", name, hostile=True) == ours
