"""The configuration of a LLaDA checkpoint, with upstream's own keys.

Holds the contents of `config.json`, and refuses architectures that `model.llada` does not
implement. `model.config_keys` lists the keys, and bounds their values.
"""

import warnings
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig

from model import safetensors_files
from model.config_keys import LONGEST, REQUIRED, SIZES, WRITTEN, YARN, is_whole, select
from model.options import check

CONFIG = "config.json"


class LLaDAConfig(PretrainedConfig):
    """The shape of a LLaDA model. The defaults are those of LLaDA-8B.

    `yarn_scale` 1.0 is plain RoPE. With `yarn_scale` s > 1, YaRN (arXiv:2309.00071) extends a
    context of `yarn_original_max_position_embeddings` positions to s times as many. Raises
    ValueError naming the key, its value and what is allowed.
    """

    model_type = "llada"
    yarn_scale: float
    yarn_original_max_position_embeddings: int
    yarn_beta_fast: float
    yarn_beta_slow: float
    yarn_attn_factor: float
    yarn_extrapolation_factor: float
    yarn: bool
    rope: bool

    def __init__(
        self,
        d_model: int = 4096,
        n_heads: int = 32,
        n_kv_heads: int | None = None,
        n_layers: int = 32,
        mlp_hidden_size: int | None = 12288,
        vocab_size: int = 126464,
        embedding_size: int | None = None,
        max_sequence_length: int = 4096,
        rope_theta: float = 500000.0,
        rms_norm_eps: float = 1e-5,
        weight_tying: bool = False,
        mask_token_id: int = 126336,
        eos_token_id: int = 126081,
        pad_token_id: int = 126081,
        **upstream: Any,
    ) -> None:
        _refuse_other_architectures(upstream)
        self.d_model = d_model
        self.n_heads = n_heads
        self.n_kv_heads = n_kv_heads or (1 if upstream["multi_query_attention"] else n_heads)
        self.n_layers = n_layers
        self.mlp_hidden_size = mlp_hidden_size or upstream["mlp_ratio"] * d_model
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size or vocab_size
        self.max_sequence_length = max_sequence_length
        self.rope_theta = rope_theta
        self.rms_norm_eps = rms_norm_eps
        self.weight_tying = weight_tying
        self.mask_token_id = mask_token_id
        self._set_positions(upstream)
        self._check_sizes()
        upstream["tie_word_embeddings"] = weight_tying
        upstream |= {"eos_token_id": eos_token_id, "pad_token_id": pad_token_id}
        use_cache = upstream["use_cache"]
        super().__init__(**upstream)
        self.use_cache = use_cache  # transformers removes it, as a setting of generation

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.n_heads

    def extend(self, context: int) -> None:
        """Makes `context` positions the longest sequence, by YaRN where the base's own is shorter.

        Raises ValueError when the base's own context is longer.
        """
        longest = self.max_sequence_length
        check("context", context, context >= longest, f"{longest} (the base's own) or more")
        if context == longest:
            return
        if not self.yarn:  # a base that YaRN has extended before keeps its original context
            self.yarn_original_max_position_embeddings = longest
        self.yarn_scale = context / self.yarn_original_max_position_embeddings
        self.max_sequence_length = context
        self.yarn, self.rope = True, False

    def to_dict(self) -> dict[str, Any]:
        """Every key of config.json; YaRN's keys only where it is in use."""
        values = super().to_dict()
        return values if self.yarn else {k: v for k, v in values.items() if "yarn" not in k}

    def _set_positions(self, upstream: dict[str, Any]) -> None:
        """Plain RoPE or YaRN: exactly one of `rope` and `yarn` is true afterwards.

        With YaRN `rope` is false, so that code that does not know YaRN refuses the file.
        """
        scale = upstream.get("yarn_scale", 1.0)
        uses_yarn = upstream.pop("yarn", scale != 1.0)
        if not (upstream.pop("rope", True) or uses_yarn):
            raise ValueError("config.json: rope=False, yarn=False; allowed: one of them true")
        for key, default in YARN.items():
            setattr(self, key, upstream.pop(key, default))
        if not uses_yarn:
            self.yarn_scale = 1.0
        check("config.json: yarn_scale", self.yarn_scale, self.yarn_scale >= 1.0, "1 or more")
        self.yarn = self.yarn_scale != 1.0
        self.rope = not self.yarn
        if self.yarn_beta_fast < self.yarn_beta_slow:
            warnings.warn(
                f"config.json: yarn_beta_fast={self.yarn_beta_fast} is below yarn_beta_slow="
                f"{self.yarn_beta_slow}, which inverts YaRN's ramp; they were swapped back",
                stacklevel=3,
            )
            swapped = self.yarn_beta_slow, self.yarn_beta_fast
            self.yarn_beta_fast, self.yarn_beta_slow = swapped

    def _check_sizes(self) -> None:
        for key, most in SIZES.items():
            value = getattr(self, key)
            allowed = f"a whole number above 0, up to {most}"
            check(f"config.json: {key}", value, is_whole(value, 1, most), allowed)
        if (
            self.d_model % self.n_heads
            or self.n_heads % self.n_kv_heads
            or (self.d_model // self.n_heads) % 2
        ):
            raise ValueError(
                f"config.json: d_model={self.d_model}, n_heads={self.n_heads}, "
                f"n_kv_heads={self.n_kv_heads}; n_kv_heads must divide n_heads, "
                "n_heads must divide d_model into even head sizes"
            )
        good = self.embedding_size >= self.vocab_size
        allowed = f"{self.vocab_size} (vocab_size) or more"
        check("config.json: embedding_size", self.embedding_size, good, allowed)


def _refuse_other_architectures(upstream: dict[str, Any]) -> None:
    """Fills in upstream's keys; raises ValueError for one that names another architecture."""
    for key, allowed in REQUIRED.items():
        value = upstream.setdefault(key, allowed)
        check(f"config.json: {key}", value, value == allowed, repr(allowed))
    for key, value in WRITTEN.items():
        upstream.setdefault(key, value)
    upstream.setdefault("architectures", ["LLaDAModelLM"])


def _allowed(values: dict[str, Any]) -> str:
    """The kind of model that is allowed; no Python file is run that another kind names."""
    classes = values.get("auto_map")
    names = classes.values() if isinstance(classes, dict) else ()
    texts = [name for name in names if isinstance(name, str) and len(name) < LONGEST]
    files = sorted({f"{name.rpartition('.')[0]}.py" for name in texts})[:3]
    return f"'llada'; its {', '.join(files)} is never run" if files else "'llada'"


def read_config(path: Path) -> LLaDAConfig:
    """The configuration in config.json, of the keys that are known.

    Raises ValueError for another kind of model, and for a value that no model has.
    """
    values = safetensors_files.read_json(path / CONFIG)
    kind = values.pop("model_type", None)
    check(f"{path / CONFIG}: model_type", kind, kind == LLaDAConfig.model_type, _allowed(values))
    return LLaDAConfig(**select(values, path / CONFIG))
