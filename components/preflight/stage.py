"""Builds every configuration before the first expensive stage starts, and hands on the release bar.

The command line does the building: what reaches `run` is valid field by field.
"""

import json

from components.artifact import Parameter
from components.download.config import DownloadConfig
from components.dpo.config import DpoConfig
from components.evaluate.config import EvaluateConfig
from components.grpo.config import GrpoConfig
from components.merge.config import MergeConfig
from components.preflight.config import check_context
from components.pretrain.config import PretrainConfig
from components.release.config import ReleaseConfig
from components.report.config import ReportConfig
from components.sft.config import SftConfig


def run(
    *,
    download: DownloadConfig,
    pretrain: PretrainConfig,
    merge: MergeConfig,
    sft: SftConfig,
    dpo: DpoConfig,
    grpo: GrpoConfig,
    evaluate: EvaluateConfig,
    report: ReportConfig,
    release: ReleaseConfig,
    release_accuracy: Parameter,
) -> None:
    """Checks the configurations of all stages and what must hold between them."""
    check_context(download, pretrain, sft)
    release_accuracy.write_text(json.dumps(release.accuracy))
    print("preflight: every configuration is valid", flush=True)
