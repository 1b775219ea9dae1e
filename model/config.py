"""The configuration of a LLaDA checkpoint, with upstream's own keys.

Holds what `config.json` says and refuses architectures that `model.llada` does not implement. It
leaves out everything about training and sampling.
"""

import warnings
from typing import Any

from transformers import PretrainedConfig

# Upstream switches that name another architecture than the one in `model.llada`.
REQUIRED = {
    "alibi": False,
    "attention_layer_norm": False,
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "include_bias": False,
    "include_qkv_bias": False,
    "input_emb_norm": False,
    "scale_logits": False,
    "activation_type": "silu",
    "block_type": "llama",
    "layer_norm_type": "rms",
}


class LLaDAConfig(PretrainedConfig):
    """Shape of a LLaDA model. The defaults are those of LLaDA-8B.

    `yarn_scale` 1.0 is plain RoPE. With `yarn_scale` s > 1 positions are stretched by YaRN
    (arXiv:2309.00071) from `yarn_original_max_position_embeddings` positions to s times as many.
    """

    model_type = "llada"

    def __init__(
        self,
        d_model: int = 4096,
        n_heads: int = 32,
        n_kv_heads: int | None = None,
        n_layers: int = 32,
        mlp_hidden_size: int = 12288,
        vocab_size: int = 126464,
        embedding_size: int | None = None,
        max_sequence_length: int = 4096,
        rope_theta: float = 500000.0,
        rms_norm_eps: float = 1e-5,
        weight_tying: bool = False,
        mask_token_id: int = 126336,
        eos_token_id: int = 126081,
        pad_token_id: int = 126081,
        yarn_scale: float = 1.0,
        yarn_original_max_position_embeddings: int = 4096,
        yarn_beta_fast: float = 32.0,
        yarn_beta_slow: float = 1.0,
        **upstream: Any,
    ) -> None:
        if not upstream.pop("yarn", True):
            yarn_scale = 1.0
        for key, allowed in REQUIRED.items():
            if upstream.setdefault(key, allowed) != allowed:
                raise ValueError(f"config.json: {key}={upstream[key]!r}, allowed: {allowed!r}")
        upstream.setdefault("architectures", ["LLaDAModelLM"])
        self.d_model = d_model
        self.n_heads = n_heads
        self.n_kv_heads = n_kv_heads or n_heads
        self.n_layers = n_layers
        self.mlp_hidden_size = mlp_hidden_size
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size or vocab_size
        self.max_sequence_length = max_sequence_length
        self.rope_theta = rope_theta
        self.rms_norm_eps = rms_norm_eps
        self.weight_tying = weight_tying
        self.mask_token_id = mask_token_id
        self.yarn_scale = yarn_scale
        self.yarn_original_max_position_embeddings = yarn_original_max_position_embeddings
        if yarn_beta_fast < yarn_beta_slow:
            warnings.warn(
                f"config.json: yarn_beta_fast={yarn_beta_fast} is below yarn_beta_slow="
                f"{yarn_beta_slow}, which inverts YaRN's ramp; they were swapped back",
                stacklevel=2,
            )
            yarn_beta_fast, yarn_beta_slow = yarn_beta_slow, yarn_beta_fast
        self.yarn_beta_fast = yarn_beta_fast
        self.yarn_beta_slow = yarn_beta_slow
        if d_model % n_heads or self.n_heads % self.n_kv_heads or (d_model // n_heads) % 2:
            raise ValueError(
                f"config.json: d_model={d_model}, n_heads={n_heads}, n_kv_heads={n_kv_heads}; "
                "n_kv_heads must divide n_heads, n_heads must divide d_model into even head sizes"
            )
        upstream["tie_word_embeddings"] = weight_tying
        upstream |= {"eos_token_id": eos_token_id, "pad_token_id": pad_token_id}
        super().__init__(**upstream)

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.n_heads
