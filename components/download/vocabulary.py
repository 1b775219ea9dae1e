"""Checks that a base's tokenizer fits its configuration, before any weight is fetched.

`base_model.py` checks the weights.
"""

import resource
import subprocess
import sys
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from model import safetensors_files
from model.config import CONFIG, read_config
from model.options import check
from model.tokenizer import NEW, load_tokenizer

TOKENIZER = "tokenizer.json"
PROBE = Path(__file__).with_name("tokenizer_probe.py")
SECONDS = 20  # of processor time for the probe; a usual tokenizer takes less than one
MEMORY = 4 << 30  # bytes of address space; the largest published tokenizers take a fifth of it
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def check_fit(path: Path) -> None:
    """Compares the tokenizer at `path` with config.json.

    The weights may be missing. Raises FileNotFoundError naming a missing file, ValueError naming a
    file that cannot be read, a token that is missing or whose id differs from the model's, or an
    id without an embedding row.
    """
    config = read_config(path)
    tokenizer = _read_tokenizer(path)
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"{path}: its tokenizer has no EOS token, which ends every answer; "
            'allowed: one that tokenizer_config.json names as "eos_token"'
        )
    _check_rows(path, tokenizer, config.embedding_size)
    mask, eos = (
        f"{tokenizer.mask_token_id}, the tokenizer's",
        f"{tokenizer.eos_token_id}, the tokenizer's",
    )
    own = config.mask_token_id
    name = f"{path / CONFIG}: mask_token_id"
    check(name, own, own == tokenizer.mask_token_id, f"{mask} {tokenizer.mask_token}")
    for key in ("eos_token_id", "pad_token_id"):  # the space after an answer is filled with EOS
        own = getattr(config, key)
        is_eos = tokenizer.eos_token_id in (own if isinstance(own, list) else [own])
        check(f"{path / CONFIG}: {key}", own, is_eos, f"{eos} {tokenizer.eos_token}")


def _read_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer with our special tokens added. Raises an error naming a file that is bad."""
    if not (path / TOKENIZER).exists():
        raise FileNotFoundError(
            f"{path / TOKENIZER}: no such file; a base needs its fast tokenizer, which "
            "`AutoTokenizer.from_pretrained(...).save_pretrained(...)` writes"
        )
    for name in (TOKENIZER, *SETTINGS):
        if (path / name).exists():
            safetensors_files.read_json(path / name)
    _probe(path / TOKENIZER)
    try:
        return load_tokenizer(path)
    except Exception as error:  # the library raises anything, bare Exception among it
        raise ValueError(f"{path / TOKENIZER}: no tokenizer can be made of it: {error}") from error


def _probe(file: Path) -> None:
    """Raises ValueError for a tokenizer that takes too much to load, or fails on, or to encode.

    Its regular expressions come from a stranger. The process that tries them has no secrets.
    """

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    done = subprocess.run(
        [sys.executable, "-I", str(PROBE), str(file.absolute())],
        env={"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        errors="replace",
        preexec_fn=bound,
        check=False,
    )
    if done.returncode > 0:
        reason = (done.stderr.strip().splitlines() or ["the library ended"])[-1]
        raise ValueError(f"{file}: no tokenizer can be made of it: {reason}")
    if done.returncode < 0:
        raise ValueError(
            f"{file}: its regular expressions need over {SECONDS} s for a few short texts, "
            "or over 4 GB of memory"
        )


def _check_rows(path: Path, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Every token needs an embedding row: the embedding is never resized."""
    token, largest = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if largest < rows:
        return
    added = tokenizer.init_kwargs[NEW]
    raise ValueError(
        f"{path}: its tokenizer's largest id is {largest} ({token}"
        f"{', one of ' + str(len(added)) + ' special tokens added here' if added else ''}), "
        f"allowed: up to {rows - 1}, for the embedding has {rows} rows"
    )
