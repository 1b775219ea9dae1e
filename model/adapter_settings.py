"""adapter_config.json, as peft writes it: what an adapter's tensors mean.

A file that comes from a stranger: every value is checked, and the patterns that name layers are
those that match in a bounded time.
"""

import math
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.config_keys import is_whole
from model.lora import CONFIG
from model.options import check
from model.safetensors_files import read_json

# Settings under which peft computes something else, or trained on a modified base.
UNSUPPORTED = (
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "megatron_config",
    "monteclora_config",
    "target_parameters",
    "use_bdlora",
    "use_qalora",
)
STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
MOST_PATTERNS, LONGEST_PATTERN = 1000, 200
LARGEST_RANK, LARGEST_ALPHA = 2**16, 10**6
# Python's engine tries every way to share a text among repetitions. With three of them, none within
# another, that is at most the cube of the length of a layer's name.
PATTERN = re.compile(r"\^?([\w.$()|-]|\\[.dw]|\[[\w.\\-]+\]|(?<![()|*+?])[*+?])*", re.ASCII)
MOST_REPETITIONS = 3
SECONDS = 10.0  # that all patterns together may take for all layers


class Settings:
    """The settings of an adapter directory.

    Raises ValueError naming the file, the setting, its value and what is allowed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values = read_json(path / CONFIG)
        self.seconds = 0.0
        self._refuse_other_kinds()
        ranks, alphas = (self._by_pattern(name) for name in ("rank_pattern", "alpha_pattern"))
        self._check("r", self.values["r"], _is_rank, f"a whole number, 1 to {LARGEST_RANK}")
        allowed = f"a number, in size up to {LARGEST_ALPHA}"
        self._check("lora_alpha", self.values["lora_alpha"], _is_alpha, allowed)
        for rank in ranks.values():
            self._check("rank_pattern", rank, _is_rank, f"whole numbers, 1 to {LARGEST_RANK}")
        for alpha in alphas.values():
            self._check("alpha_pattern", alpha, _is_alpha, allowed)
        self.ranks, self.alphas = ranks, alphas

    def rank(self, layer: str) -> int:
        """The rank of a layer's update."""
        return self._matching(self.ranks, layer, self.values["r"])

    def scale(self, layer: str, rank: int) -> float:
        """alpha / r, or alpha / sqrt(r) for rsLoRA."""
        alpha: float = self._matching(self.alphas, layer, self.values["lora_alpha"])
        return alpha / (math.sqrt(rank) if self.values.get("use_rslora") else rank)

    @property
    def tokens(self) -> dict[str, Any]:
        """The rows of trained tokens by the end of the name of each layer that has some."""
        setting = self.values.get("trainable_token_indices") or {}
        return setting if isinstance(setting, dict) else {"wte": setting}

    def rows(self, layer: str, count: int) -> list[int]:
        """The rows, below `count`, that trained tokens replace in a matrix.

        A bare list means the embedding's rows.
        """
        matches = [indices for key, indices in self.tokens.items() if layer.endswith(key)]
        if len(matches) != 1:
            raise ValueError(
                f"{self.path}: trainable_token_indices do not say which rows {layer}.weight has"
            )
        (indices,) = matches
        are_rows = isinstance(indices, list) and all(is_whole(n, 0, count - 1) for n in indices)
        good = are_rows and len(set(indices)) == len(indices)
        allowed = f"0 to {count - 1}, each once"
        check(f"{self.path}: trainable_token_indices", indices, good, allowed)
        return indices

    def _matching(self, patterns: Mapping[str, Any], layer: str, default: Any) -> Any:
        """The value of the first pattern that a layer's name ends in, as peft reads it."""
        began = time.monotonic()
        values = (
            patterns[pattern]
            for pattern in patterns
            if re.match(rf"(.*\.)?({pattern})$", layer) is not None
        )
        value = next(values, default)
        self.seconds += time.monotonic() - began
        if self.seconds > SECONDS:
            raise ValueError(f"{self.path / CONFIG}: its patterns take over {SECONDS:.0f} s")
        return value

    def _by_pattern(self, name: str) -> dict[str, Any]:
        patterns = self.values.get(name) or {}
        allowed = f"an object of up to {MOST_PATTERNS} patterns"
        good = isinstance(patterns, dict) and len(patterns) <= MOST_PATTERNS
        check(f"{self.path}: {name}", patterns, good, allowed)
        allowed = f"names and simple patterns of up to {LONGEST_PATTERN} characters"
        for pattern in patterns:
            check(f"{self.path}: {name}", pattern, _is_simple(pattern), allowed)
        return patterns

    def _check(self, name: str, value: Any, is_good: Any, allowed: str) -> None:
        check(f"{self.path}: {name}", value, is_good(value), allowed)

    def _refuse_other_kinds(self) -> None:
        kind = self.values.get("peft_type")
        check(f"{self.path}: peft_type", kind, kind == "LORA", "LORA")
        if not {"r", "lora_alpha"} <= self.values.keys():
            raise ValueError(f"{self.path / CONFIG}: r or lora_alpha is missing")
        for key in UNSUPPORTED:
            if self.values.get(key):
                raise ValueError(f"{self.path}: {key}={self.values[key]!r:.200} is not merged")
        start = self.values.get("init_lora_weights")
        if not isinstance(start, bool | str | None) or start not in STARTS:
            raise ValueError(
                f"{self.path}: init_lora_weights={start!r:.200} changed the base that was trained "
                f"on; allowed: {', '.join(map(str, STARTS))}"
            )


def _is_simple(pattern: str) -> bool:
    """Whether a pattern compiles, and matches in a time that its length bounds."""
    repetitions = len(re.findall(r"(?<!\\)[*+]", pattern))
    good = len(pattern) <= LONGEST_PATTERN and repetitions <= MOST_REPETITIONS
    if not good or PATTERN.fullmatch(pattern) is None:
        return False
    try:
        re.compile(rf"(.*\.)?({pattern})$")
    except re.error:
        return False
    return True


def _is_rank(value: object) -> bool:
    return is_whole(value, 1, LARGEST_RANK)


def _is_alpha(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and -LARGEST_ALPHA <= value <= LARGEST_ALPHA  # type: ignore[operator]
