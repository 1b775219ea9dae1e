"""iLLaDA's checkpoints (arXiv:2606.25331) in LLaDA's names: settings, tokenizer and tensors.

iLLaDA is a LLaDA with grouped heads and tied weights whose files have the names of Hugging Face's
Llama, and whose mask is the token <[MASK]>, which its settings do not name. A copy of such a model
is rewritten in place; a model of another kind is left alone.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

from components import atomic
from model import safetensors_files
from model.config import CONFIG, LLaDAConfig
from model.options import check
from model.safetensors_files import INDEX
from model.tokenizer import load_tokenizer

ARCHITECTURE, KIND = "ILLaDAForCausalLM", "illada"
MASK = "<[MASK]>"
SETTINGS = {
    "hidden_size": "d_model",
    "num_attention_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads",
    "num_hidden_layers": "n_layers",
    "intermediate_size": "mlp_hidden_size",
    "vocab_size": "vocab_size",
    "max_position_embeddings": "max_sequence_length",
    "rope_theta": "rope_theta",
    "rms_norm_eps": "rms_norm_eps",
    "tie_word_embeddings": "weight_tying",
}
"""LLaDA's name of each of iLLaDA's settings."""
ABSENT = {
    "attention_bias": False,
    "mlp_bias": False,
    "qk_norm": False,
    "rope_scaling": None,
    "hidden_act": "silu",
}
"""What `model.llada` has in one way only; a file that says otherwise is of another model."""
WHOLE = {
    "model.embed_tokens": "model.transformer.wte",
    "model.norm": "model.transformer.ln_f",
    "lm_head": "model.transformer.ff_out",
}
LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.o_proj": "attn_out",
    "post_attention_layernorm": "ff_norm",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
}
NAME = re.compile(r"model\.layers\.(\d+)\.(.+)\.weight")


def is_original(path: Path) -> bool:
    """Whether the configuration at `path` is an iLLaDA's own."""
    values = safetensors_files.read_json(path / CONFIG)
    return values.get("model_type") == KIND or values.get("architectures") == [ARCHITECTURE]


def rewrite_settings(path: Path) -> None:
    """Rewrites config.json, the index and the tokenizer's settings of an iLLaDA at `path`.

    Raises ValueError naming a setting of another architecture, or a tokenizer without the mask.
    """
    values = safetensors_files.read_json(path / CONFIG)
    if not is_original(path):
        return
    names = values.get("architectures")
    check(f"{path / CONFIG}: architectures", names, names == [ARCHITECTURE], repr([ARCHITECTURE]))
    for key, allowed in ABSENT.items():
        value = values.get(key, allowed)
        check(f"{path / CONFIG}: {key}", value, value == allowed, repr(allowed))
    missing = [key for key in SETTINGS if key not in values]
    check(f"{path / CONFIG}: {', '.join(missing)}", None, not missing, "the settings of an iLLaDA")
    ours = {name: values[key] for key, name in SETTINGS.items()}
    _name_mask(path)
    tokenizer = load_tokenizer(path)
    eos = tokenizer.eos_token_id
    ids = {"mask_token_id": tokenizer.mask_token_id, "eos_token_id": eos, "pad_token_id": eos}
    atomic.write_json(path / CONFIG, LLaDAConfig(**ours, **ids).to_dict())
    if (path / INDEX).exists():
        places = {rename(name): file for name, file in safetensors_files.index(path).items()}
        whole = safetensors_files.read_json(path / INDEX)
        atomic.write_json(path / INDEX, {**whole, "weight_map": places})


def rewrite_weights(path: Path) -> None:
    """Gives the tensors below `path` LLaDA's names; their bytes are copied as they are."""
    for file in safetensors_files.weight_files(path):
        # `header` refuses a file that is none, before its first bytes are taken for a length.
        if all(rename(name) == name for name, _ in safetensors_files.header(file)):
            continue
        with file.open("rb") as stream, atomic.replacing(file) as draft, draft.open("wb") as copy:
            header: dict[str, Any] = json.loads(
                stream.read(int.from_bytes(stream.read(8), "little"))
            )
            text = json.dumps(
                {rename(name): facts for name, facts in header.items()}, separators=(",", ":")
            ).encode()
            text += b" " * (-len(text) % 8)
            copy.write(len(text).to_bytes(8, "little") + text)
            shutil.copyfileobj(stream, copy, 1 << 20)


def rename(name: str) -> str:
    """LLaDA's name of one of iLLaDA's tensors; any other name comes back as it is."""
    if match := NAME.fullmatch(name):
        number, layer = match.groups()
        return f"model.transformer.blocks.{number}.{LAYER.get(layer, layer)}.weight"
    stem = name.removesuffix(".weight")
    return f"{WHOLE[stem]}.weight" if stem in WHOLE else name


def _name_mask(path: Path) -> None:
    """Writes the name of the mask, which the tokenizer must have, into its settings."""
    added = safetensors_files.read_json(path / "tokenizer.json").get("added_tokens", [])
    names = [token["content"] for token in added]
    check(f"{path / 'tokenizer.json'}: {MASK}", None, MASK in names, "a token of that name")
    file = path / "tokenizer_config.json"
    settings = safetensors_files.read_json(file) if file.exists() else {}
    atomic.write_json(file, {**settings, "mask_token": MASK})
