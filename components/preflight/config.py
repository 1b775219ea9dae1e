"""What spans the stages: limits that no single configuration can check.

Preflight has no settings of its own; it takes the configuration of every other stage.
"""

from components.download.config import DownloadConfig
from components.pretrain.config import PretrainConfig
from components.sft.config import SftConfig
from model.settings import check


def check_context(download: DownloadConfig, pretrain: PretrainConfig, sft: SftConfig) -> None:
    """Refuses training sequences that a new model's context cannot hold."""
    if download.model == "new":
        context = download.shape.context
        context = pretrain.context or context
        check("pretrain.window", pretrain.window, pretrain.window <= context, f"up to {context}")
        check("sft.max_length", sft.max_length, sft.max_length <= context, f"up to {context}")
