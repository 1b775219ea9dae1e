"""Checks that a base's tokenizer fits its configuration, before any weight is fetched.

`base_model.py` checks the weights.
"""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from model import safetensors_files
from model.config import CONFIG, read_config
from model.options import check
from model.tokenizer import NEW, load_tokenizer

TOKENIZER = "tokenizer.json"
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
    try:
        return load_tokenizer(path)
    except Exception as error:  # the library raises anything, bare Exception among it
        raise ValueError(f"{path / TOKENIZER}: no tokenizer can be made of it: {error}") from error


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
