"""Where each stage runs: processors, memory, GPUs, retries and caching. What a run is is elsewhere.

None of this is part of KFP's cache key, so that moving a stage never trains it again.
"""

from dataclasses import dataclass

from kfp import dsl


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What one stage asks of the cluster."""

    cpu: str = "2"
    """Processors requested."""
    memory: str = "8Gi"
    """Memory limit of the pod."""
    gpus: int = 0
    """GPUs of the pod."""
    retries: int = 2
    """How often a failed pod is started again."""


LIGHT = Placement(cpu="1", memory="2Gi")
DISK = Placement(memory="32Gi")
GPU = Placement(cpu="8", memory="96Gi", gpus=1)
PLACEMENTS = {
    "preflight": LIGHT,
    "download": DISK,
    "pretrain": GPU,
    "merge": DISK,
    "sft": GPU,
    "dpo": GPU,
    "grpo": GPU,
    "evaluate": GPU,
    "report": LIGHT,
}


def place(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Gives a task the placement of its stage."""
    wanted = PLACEMENTS[task.component_spec.name]
    task.set_cpu_request(wanted.cpu).set_memory_limit(wanted.memory)
    if wanted.gpus:
        task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(wanted.gpus)
    return task.set_retry(wanted.retries, backoff_duration="30s", backoff_factor=2)
