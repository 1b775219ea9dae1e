"""The keys of config.json that are read here, and the values that each may have.

A file comes from a stranger, and transformers acts on keys that no LLaDA has: it would load kernels
from the Hub for one and allocate a list of any length for another. So all keys that are not listed
here are dropped, and sizes are bounded before anything is built. `model.config` knows their
meaning.
"""

from collections.abc import Mapping
from typing import Any

from model.options import check

# Upstream's switches, with the only value that `model.llada` implements.
REQUIRED = {
    "alibi": False,
    "attention_layer_norm": False,
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "include_bias": False,
    "include_qkv_bias": False,
    "input_emb_norm": False,
    "layer_norm_with_affine": True,
    "scale_logits": False,
    "activation_type": "silu",
    "block_type": "llama",
    "layer_norm_type": "rms",
}
# Upstream's keys without an effect here. They are written all the same: some of upstream's defaults
# describe another model, and a file without these keys would load there as that one.
WRITTEN = {
    "attention_dropout": 0.0,
    "embedding_dropout": 0.0,
    "residual_dropout": 0.0,
    "flash_attention": False,
    "init_device": "meta",
    "init_fn": "mitchell",
    "init_std": 0.02,
    "mlp_ratio": 4,
    "multi_query_attention": None,
    "precision": "amp_bf16",
    "rope_full_precision": True,
    "use_cache": False,
}
YARN = {
    "yarn_scale": 1.0,
    "yarn_original_max_position_embeddings": 4096,
    "yarn_beta_fast": 32.0,
    "yarn_beta_slow": 1.0,
    "yarn_attn_factor": 1.0,
    "yarn_extrapolation_factor": 1.0,
}
# The largest sizes, each many times that of any published model.
SIZES = {
    "d_model": 2**16,
    "n_heads": 2**12,
    "n_kv_heads": 2**12,
    "n_layers": 1000,
    "mlp_hidden_size": 2**20,
    "vocab_size": 2**24,
    "embedding_size": 2**24,
    "max_sequence_length": 2**24,
}
IDS = ("mask_token_id", "eos_token_id", "pad_token_id", "bos_token_id")
# Numbers with the ends of their ranges, which are no part of them.
NUMBERS = {
    "rope_theta": (1, 10**15),
    "rms_norm_eps": (0, 1),
    "yarn_scale": (0, 10**6),
    "yarn_beta_fast": (0, 10**6),
    "yarn_beta_slow": (0, 10**6),
    "yarn_attn_factor": (0, 10**6),
    "yarn_extrapolation_factor": (-1, 10**6),
}
WHOLE = {"yarn_original_max_position_embeddings": 2**24, "mlp_ratio": 2**10}
SWITCHES = ("weight_tying", "rope", "yarn")
DTYPES = ("float32", "float16", "bfloat16")
MOST_IDS = 100  # of tokens that end a text
LONGEST = 200  # characters of a text
KEPT = ("architectures", "auto_map", "init_cutoff_factor", "transformers_version")
"""Upstream's keys that are kept as data: nothing here or in a library that we call acts on them."""


def select(values: Mapping[str, Any], place: object) -> dict[str, Any]:
    """The known keys of config.json.

    Raises ValueError naming the place, the key, its value and what is allowed. `model.config`
    checks what must hold between them.
    """
    known = {key: value for key, value in values.items() if key in KNOWN}
    for key, value in known.items():
        good, allowed = _judge(key, value)
        check(f"{place}: {key}", value, good, allowed)
    return known


def is_whole(value: object, least: int, most: int) -> bool:
    """Whether a value is an integer, and no boolean, from `least` to `most`."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _judge(key: str, value: Any) -> tuple[bool, str]:
    """Whether a key may have this value, and what it may have."""
    if key in NUMBERS:
        low, high = NUMBERS[key]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and low < value < high, f"a number between {low} and {high}"
    if key in WHOLE:
        return is_whole(value, 1, WHOLE[key]), f"a whole number, 1 to {WHOLE[key]}"
    if key in SWITCHES:
        return isinstance(value, bool), "true or false"
    if key in IDS:
        several = value if isinstance(value, list) and key != "mask_token_id" else [value]
        good = all(each is None or is_whole(each, 0, SIZES["vocab_size"]) for each in several)
        return good and len(several) <= MOST_IDS, "the id of a token"
    if key in ("dtype", "torch_dtype"):
        allowed = f"null, {', '.join(DTYPES)}"
        return value is None or str(value).removeprefix("torch.") in DTYPES, allowed
    if key in SIZES or key in REQUIRED:
        return True, "as model.config says"
    return _is_small(value), f"a word of up to {LONGEST} characters, a number, or a few of them"


def _is_small(value: Any) -> bool:
    """Whether a value is a plain one, or a few of them, so that it can be kept as data."""
    if isinstance(value, list | dict):
        items = [*value, *value.values()] if isinstance(value, dict) else value
        return (
            len(items) <= MOST_IDS
            and not any(isinstance(i, list | dict) for i in items)
            and (all(map(_is_small, items)))
        )
    return (
        value is None
        or isinstance(value, bool | float)
        or (len(value) <= LONGEST if isinstance(value, str) else abs(value) <= 2**63)
    )


KNOWN = {*REQUIRED, *WRITTEN, *YARN, *SIZES, *IDS, *NUMBERS, *WHOLE, *SWITCHES, *KEPT}
KNOWN |= {"dtype", "torch_dtype"}
