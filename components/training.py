"""What the training stages share: opening a base for training, and saving what was trained.

The loop is `model.train`, the losses are the model's; a stage says which data meet which loss.
"""

from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from model import checkpoint, lora, tokenizer
from model.llada import LLaDA
from model.settings import Optimisation


def open_base(
    base: Path, config: Optimisation
) -> tuple[LLaDA, PeftModel | None, PreTrainedTokenizerBase]:
    """The model with what will be trained on it, its adapter if there is one, and its tokenizer.

    Full training keeps fp32 weights; under an adapter the frozen base keeps its own precision.
    """
    torch.manual_seed(config.seed)
    model = checkpoint.load(base, dtype=torch.float32, device=_device())
    model.checkpoint_activations = config.activation_checkpointing
    words = tokenizer.load(base)
    if config.lora is None:
        return model, None, words
    adapter = config.lora
    wrapped = lora.attach(
        model,
        rank=adapter.rank,
        alpha=adapter.alpha,
        dropout=adapter.dropout,
        targets=adapter.targets,
    )
    return model, wrapped, words


def save_trained(
    model: LLaDA, adapter: PeftModel | None, words: PreTrainedTokenizerBase, path: Path
) -> None:
    """Writes the adapter alone, or the whole model where every weight was trained."""
    if adapter is None:
        checkpoint.save(model, path)
    else:
        adapter.save_pretrained(str(path))
        (path / "README.md").unlink(missing_ok=True)
    words.save_pretrained(path)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_device(tensors: dict[str, torch.Tensor], model: LLaDA) -> dict[str, torch.Tensor]:
    """A batch's tensors where the model is."""
    return {name: tensor.to(model.device) for name, tensor in tensors.items()}
