"""Builds every configuration before the first expensive stage starts, and hands on the release bar.

The command line does the building: what reaches `run` is valid field by field.
"""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.artifact import Parameter
from components.download.config import DownloadConfig
from components.dpo.config import DpoConfig
from components.evaluate.config import EvaluateConfig
from components.grpo.config import GrpoConfig
from components.merge.config import MergeConfig
from components.preflight import between
from components.preflight.between import Context
from components.preflight.config import Preference
from components.pretrain.config import PretrainConfig
from components.release.config import ReleaseConfig
from components.report.config import ReportConfig
from components.sft.config import SftConfig

# Preflight has no network: the contexts of the published models are known by their names.
PUBLISHED = {
    "GSAI-ML/LLaDA-8B-Base": 4096,
    "GSAI-ML/LLaDA-8B-Instruct": 4096,
    "GSAI-ML/LLaDA-1.5": 4096,
}


def run(
    *,
    preference: Preference = "grpo",
    download: DownloadConfig,
    pretrain: PretrainConfig,
    merge: MergeConfig,
    sft: SftConfig,
    dpo: DpoConfig,
    grpo: GrpoConfig,
    evaluate: EvaluateConfig,
    evaluate_base: EvaluateConfig,
    report: ReportConfig,
    release: ReleaseConfig,
    release_accuracy: Parameter,
) -> None:
    """Checks the configurations of all stages and what must hold between them."""
    configs = {
        "download": download,
        "pretrain": pretrain,
        "sft": sft,
        "dpo": dpo,
        "grpo": grpo,
        "evaluate": evaluate,
        "evaluate_base": evaluate_base,
    }
    base = context_of(download)
    between.refuse(
        between.lengths(base, configs), between.data(preference, configs), missing(configs)
    )
    for doubt in between.doubts(configs):
        print(f"preflight: note: {doubt}", flush=True)
    if base.tokens is None and pretrain.context is None:
        print(f"preflight: note: {base.origin} is not here, nor its context known", flush=True)
    release_accuracy.write_text(json.dumps(release.accuracy))
    print("preflight: every configuration is valid", flush=True)


def missing(configs: dict[str, Any]) -> Iterator[str]:
    """Complains of a library that the image of all stages lacks."""
    for stage, config in configs.items():
        adapter = getattr(config, "lora", None)
        if adapter and adapter.quantized and importlib.util.find_spec("bitsandbytes") is None:
            yield f"{stage}.lora.quantized=True, allowed: false, bitsandbytes is not installed"


def context_of(download: DownloadConfig) -> Context:
    """The context of the base model, where that is known without a download.

    Raises ValueError naming a local config.json that cannot be read.
    """
    if download.model == "new":
        return Context(download.shape.context, "download.shape")
    file = Path(download.model) / "config.json"
    if not file.is_file():
        return Context(PUBLISHED.get(download.model), f"download.model={download.model!r}")
    try:
        tokens = json.loads(file.read_text()).get("max_sequence_length", 4096)
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file}: not a model's configuration: {error}") from None
    if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1:
        raise ValueError(f"{file}: max_sequence_length={tokens!r}, allowed: 1 or more")
    return Context(tokens, str(file))
