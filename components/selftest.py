"""Shows that an installation works: `python -m components.selftest` prints its checks as JSON.

A small untrained LLaDA generates an answer, a tokenizer encodes and decodes a text, and versions
are listed. Reads no checkpoint, writes nothing and runs no stage.
"""

import json
import os
import platform
import sys
from typing import Any

import torch

from components import artifact
from model import sampler
from model.config import LLaDAConfig
from model.llada import LLaDA
from model.tokenizer import train_tokenizer

TEXT = "12 + 34 = 46; naïve, 数, 🙂"


def main() -> None:
    """Prints checks and versions; ends with exit code 1 if a check fails."""
    tokenizer = train_tokenizer([TEXT], vocabulary=384)
    checks = {
        **_model(tokenizer),
        "tokenizer_round_trip": tokenizer.decode(tokenizer.encode(TEXT)) == TEXT,
    }
    report = {
        "checks": checks,
        "packages": artifact.versions(),
        "python": platform.python_version(),
        "git_commit": artifact.commit(),
        "image": os.environ.get("IMAGE"),
        "user": f"{os.getuid()}:{os.getgid()}",
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "gpus": [torch.cuda.get_device_name(gpu) for gpu in range(torch.cuda.device_count())],
    }
    print(json.dumps(report, indent=1))
    sys.exit(0 if all(checks.values()) else 1)


def _model(tokenizer: Any) -> dict[str, bool]:
    """A forward pass is finite and has the right shape; generation leaves no token masked."""
    torch.manual_seed(0)
    config = LLaDAConfig(
        d_model=32,
        n_layers=2,
        n_heads=2,
        mlp_hidden_size=64,
        vocab_size=384,
        max_sequence_length=128,
        mask_token_id=tokenizer.mask_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = LLaDA(config).eval()
    model.to(device)
    prompt_BP = torch.tensor([tokenizer.encode(TEXT)], device=device)
    with torch.inference_mode():
        logits_BPV = model(prompt_BP)
    answer = sampler.generate(model, prompt_BP, gen_length=8, block_length=4, cache="dual")
    return {
        "forward_pass": logits_BPV.shape == (*prompt_BP.shape, 384)
        and bool(logits_BPV.isfinite().all()),
        "generation": bool((answer.tokens_BL != tokenizer.mask_token_id).all()),
    }


if __name__ == "__main__":
    main()
