"""The LLaDA transformer (arXiv:2502.09992): a stack of Llama blocks without a causal mask.

Parameter names are upstream's, so that its checkpoints load unchanged. There is no timestep input
and no label shift: the logits at a position predict the token at that position.
Shapes: B batch, L length, Q positions asked for, D model width, H heads, K head size, R = K/2
rotated pairs, V vocabulary.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from model import rope
from model.attention import Packing, attention
from model.cache import KeyValueCache, Places
from model.config import LLaDAConfig
from model.projection import Projection


class RMSNorm(nn.Module):
    """RMSNorm (arXiv:1910.07467): normalizes in fp32 at least, scales in the model's dtype."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        normed = F.rms_norm(states, states.shape[-1:], eps=self.eps)
        return self.weight * normed.to(states.dtype)


class Block(nn.Module):
    """Pre-norm attention over all positions, then SwiGLU (arXiv:2002.05202)."""

    def __init__(self, config: LLaDAConfig, layer: int) -> None:
        super().__init__()
        width, hidden = config.d_model, config.mlp_hidden_size
        kv_width = config.n_kv_heads * config.head_size
        self.layer, self.head_size = layer, config.head_size
        self.grouped = config.n_kv_heads != config.n_heads
        self.attn_norm = RMSNorm(width, config.rms_norm_eps)
        self.q_proj = Projection(width, width)
        self.k_proj = Projection(width, kv_width)
        self.v_proj = Projection(width, kv_width)
        self.attn_out = Projection(width, width)
        self.ff_norm = RMSNorm(width, config.rms_norm_eps)
        self.ff_proj = Projection(width, hidden)
        self.up_proj = Projection(width, hidden)
        self.ff_out = Projection(hidden, width)

    def forward(
        self,
        x_BLD: torch.Tensor,
        cos_LR: torch.Tensor,
        sin_LR: torch.Tensor,
        mask: torch.Tensor | Packing | None,
        cache: KeyValueCache | None,
        places: Places,
        positions_BQ: torch.Tensor | None = None,
    ) -> torch.Tensor:
        normed = self.attn_norm(x_BLD)
        # Every position has keys and values; queries are needed at the positions asked for alone.
        keys = rope.rotate(self._heads(self.k_proj(normed)), cos_LR, sin_LR)
        values = self._heads(self.v_proj(normed))
        if positions_BQ is not None:
            x_BLD, normed = (s.take_along_dim(positions_BQ[..., None], 1) for s in (x_BLD, normed))
            cos_LR, sin_LR = cos_LR[positions_BQ][:, None], sin_LR[positions_BQ][:, None]
        queries = rope.rotate(self._heads(self.q_proj(normed)), cos_LR, sin_LR)
        if cache is not None:
            keys, values = cache.update(self.layer, places, keys, values)
        attended = attention(queries, keys, values, mask, grouped=self.grouped)
        x_BLD = x_BLD + self.attn_out(attended.transpose(1, 2).flatten(2))
        normed = self.ff_norm(x_BLD)
        return x_BLD + self.ff_out(F.silu(self.ff_proj(normed)) * self.up_proj(normed))

    def _heads(self, states: torch.Tensor) -> torch.Tensor:
        """[B, H, L, K] of contiguous states: attention is half as fast on transposed ones."""
        return states.contiguous().view(*states.shape[:-1], -1, self.head_size).transpose(1, 2)


class LLaDA(PreTrainedModel):
    """A LLaDA language model: from tokens to logits over the vocabulary at every position."""

    config_class = LLaDAConfig
    base_model_prefix = "model"
    is_gradient_checkpointing = False  # read by peft; our switch is `checkpoint_activations`
    config: LLaDAConfig
    _no_split_modules = ["Block"]  # noqa: RUF012

    def __init__(self, config: LLaDAConfig) -> None:
        super().__init__(config)
        transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.embedding_size, config.d_model),
                "blocks": nn.ModuleList(Block(config, layer) for layer in range(config.n_layers)),
                "ln_f": RMSNorm(config.d_model, config.rms_norm_eps),
            }
        )
        if not config.weight_tying:
            transformer["ff_out"] = nn.Linear(config.d_model, config.embedding_size, bias=False)
        self.model = nn.ModuleDict({"transformer": transformer})
        self.checkpoint_activations = False
        self._tables: tuple[torch.Tensor, ...] = ()
        self.post_init()

    def forward(
        self, tokens_BL: torch.Tensor, attention_mask_BL: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logits [B, L, V] of every position.

        `attention_mask_BL` is 1 or True at tokens and 0 at padding, on either side. A boolean
        [B, L, L] mask is True where a query (second dimension) sees a key (third). Raises
        ValueError on an empty sequence or one longer than `config.max_sequence_length`.
        """
        return self.head(self.hidden(tokens_BL, attention_mask_BL))

    def hidden(
        self,
        tokens_BL: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        cache: KeyValueCache | None = None,
        start: int | torch.Tensor = 0,
        documents_BL: torch.Tensor | None = None,
        positions_BQ: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Final normalized states [B, L, D] of positions start..start+L-1.

        With a cache the pass also attends to all other positions of the cached window, and
        `attention_mask` covers the whole window. `start` may be a tensor [] on the device, read
        when the kernels run: recorded passes need this (`model.cuda_graph`); it is not checked.
        `documents_BL` (`model.attention`) says which packed document each position belongs to; it
        excludes a mask and a cache. `positions_BQ` restricts the result to these positions,
        [B, Q, D]; the last block computes no others.
        """
        length = tokens_BL.shape[1]
        places: Places
        if isinstance(start, int):
            self._check_length(length, start)
            places = slice(start, start + length)
        else:
            places = start + torch.arange(length, device=tokens_BL.device)
        cos_LR, sin_LR = (table[places] for table in self._rope(tokens_BL.device))
        mask: torch.Tensor | Packing | None = _attention_bias(attention_mask)
        if documents_BL is not None:
            assert positions_BQ is None, "packed rows are computed whole"
            _check_packed(tokens_BL, documents_BL, attention_mask, cache)
            mask = Packing(documents_BL)
        x_BLD = self.model["transformer"]["wte"](tokens_BL)
        blocks = self.model["transformer"]["blocks"]
        for block in blocks:
            queries_BQ = positions_BQ if block is blocks[-1] else None
            arguments = (x_BLD, cos_LR, sin_LR, mask, cache, places, queries_BQ)
            if self.checkpoint_activations and torch.is_grad_enabled():
                x_BLD = checkpoint(block, *arguments, use_reentrant=False)
            else:
                x_BLD = block(*arguments)
        return self.model["transformer"]["ln_f"](x_BLD)

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [..., V] of final states [..., D]: pass the needed positions only, V is large."""
        return F.linear(hidden, self.head_weight)

    @property
    def head_weight(self) -> torch.Tensor:
        """The output matrix [V, D]; with tied weights it is the embedding."""
        transformer = self.model["transformer"]
        return (transformer["wte"] if self.config.weight_tying else transformer["ff_out"]).weight

    def get_input_embeddings(self) -> nn.Module:
        return self.model["transformer"]["wte"]

    def get_output_embeddings(self) -> nn.Module | None:
        return None if self.config.weight_tying else self.model["transformer"]["ff_out"]

    def _rope(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        longest = self.config.max_sequence_length
        is_current = self._tables and self._tables[0].device == device
        if not is_current or len(self._tables[0]) != longest:
            with torch.inference_mode(False):  # a later pass may use them with autograd
                self._tables = rope.tables(self.config, longest, device)
        return self._tables

    def _check_length(self, length: int, start: int) -> None:
        longest = self.config.max_sequence_length
        if not 0 < length <= longest - start:
            raise ValueError(f"{start + length} tokens, allowed: 1 to {longest} (the context)")

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Upstream's "mitchell" initialization: residual outputs shrink with depth.

        Except the embedding, which starts at unit variance. A new model learns alike with
        1/sqrt(d), as upstream has it (loss 0.208 and 0.219 after 600 steps), and the recipes were
        tuned with unit variance.
        """
        if isinstance(module, RMSNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight)
        elif isinstance(module, nn.Linear):
            std = 1 / math.sqrt(module.in_features)
            nn.init.trunc_normal_(module.weight, std=std, a=-3 * std, b=3 * std)
        elif isinstance(module, Block):
            for residual in (module.attn_out, module.ff_out):
                residual.weight.mul_(1 / math.sqrt(2 * (module.layer + 1)))


def _attention_bias(mask: torch.Tensor | None) -> torch.Tensor | None:
    """A boolean mask for SDPA that broadcasts over heads (and queries); None sees everything."""
    if mask is None:
        return None
    visible = mask.bool()
    return visible[:, None, None, :] if visible.ndim == 2 else visible[:, None]


def _check_packed(tokens_BL, documents_BL, attention_mask, cache) -> None:
    if documents_BL.shape != tokens_BL.shape:
        shape, allowed = tuple(documents_BL.shape), tuple(tokens_BL.shape)
        raise ValueError(f"documents_BL: shape {shape}, allowed: that of the tokens, {allowed}")
    if attention_mask is not None or cache is not None:
        raise ValueError("documents_BL beside an attention mask or a cache, allowed: alone")
