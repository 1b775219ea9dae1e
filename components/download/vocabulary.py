"""Whether a base's tokenizer and its configuration fit each other, before any weight is fetched.

Weights are the business of `base_model.py`.
"""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from model import safetensors_files
from model.config import CONFIG, read_config
from model.options import check
from model.tokenizer import NEW, load_tokenizer

WORDS = "tokenizer.json"
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def check_fit(path: Path) -> None:
    """Compares the tokenizer at `path` with config.json.

    Weights need not be there yet. Raises ValueError naming the file that cannot be read, the token
    that is missing or has another id than the model's, or the id that the embedding has no row for,
    and FileNotFoundError naming the file that is not there.
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
    given = config.mask_token_id
    name = f"{path / CONFIG}: mask_token_id"
    check(name, given, given == tokenizer.mask_token_id, f"{mask} {tokenizer.mask_token}")
    for key in ("eos_token_id", "pad_token_id"):  # what follows an answer is filled with EOS
        given = getattr(config, key)
        is_eos = tokenizer.eos_token_id in (given if isinstance(given, list) else [given])
        check(f"{path / CONFIG}: {key}", given, is_eos, f"{eos} {tokenizer.eos_token}")


def _read_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer with the tokens that ours adds; a file that cannot be read is named."""
    if not (path / WORDS).exists():
        raise FileNotFoundError(
            f"{path / WORDS}: no such file; a base needs its fast tokenizer, which "
            "`AutoTokenizer.from_pretrained(...).save_pretrained(...)` writes"
        )
    for name in (WORDS, *SETTINGS):
        if (path / name).exists():
            safetensors_files.read_json(path / name)
    try:
        return load_tokenizer(path)
    except Exception as error:  # the library raises bare exceptions, and those of its own code
        raise ValueError(f"{path / WORDS}: no tokenizer can be made of it: {error}") from error


def _check_rows(path: Path, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Every token has an embedding row; nothing is ever resized."""
    token, largest = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    if largest < rows:
        return
    added = tokenizer.init_kwargs[NEW]
    raise ValueError(
        f"{path}: its tokenizer's largest id is {largest} ({token}"
        f"{', one of ' + str(len(added)) + ' special tokens added here' if added else ''}), "
        f"allowed: up to {rows - 1}, for the embedding has {rows} rows"
    )
