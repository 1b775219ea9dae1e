"""How a training stage is spread over nodes, and how its job is watched."""

import re
from dataclasses import dataclass
from typing import Literal

from model.settings import check

LABEL = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|[KMGTP]i?)?")


@dataclass(frozen=True, kw_only=True)
class TrainjobConfig:
    """A training stage on several nodes. The defaults are those of the 8B recipe."""

    stage: Literal["pretrain", "sft"] = "pretrain"
    """The stage that the nodes run; its own configuration is `settings`."""
    nodes: int = 2
    """Pods that train together."""
    processes: int = 1
    """Processes of a node: one a GPU, or one where there is none."""
    gpus: int = 1
    """GPUs of a node."""
    gpu: str = "nvidia.com/gpu"
    """Resource that counts GPUs."""
    cpu: str = "8"
    """Processors of a node."""
    memory: str = "96Gi"
    """Memory of a node."""
    shared_memory: str | None = "16Gi"
    """Size of a node's /dev/shm, in memory; null leaves the container runtime's 64 MiB."""
    pool: tuple[tuple[str, str], ...] = ()
    """Labels, as name and value, that the machines must have."""
    tolerations: tuple[str, ...] = ("nvidia.com/gpu",)
    """Keys of NoSchedule taints that the pods may ignore."""
    claim: str = "training"
    """Volume claim (ReadWriteMany) through which inputs and outputs travel."""
    directory: str = "/training"
    """Where this pod has the claim mounted; the nodes mount it there too."""
    secrets: tuple[tuple[str, str, str], ...] = ()
    """Variable, secret and key of what the nodes read from secrets; missing ones are left out."""
    runtime: str = "torch-distributed"
    """Training runtime of the cluster; its torch policy tells torchrun who the nodes are."""
    runtime_kind: Literal["ClusterTrainingRuntime", "TrainingRuntime"] = "ClusterTrainingRuntime"
    """Whether the runtime is the cluster's or the namespace's."""
    account: str = "llada-trainer"
    """Service account of the nodes, which needs no rights."""
    image: str | None = None
    """Image of the nodes; null takes the one that this pod runs."""
    namespace: str | None = None
    """Namespace of the job; null takes this pod's, or the kubeconfig's."""
    hours: float = 72.0
    """Hours after which the job is stopped and has failed."""
    poll: float = 5.0
    """Seconds between two questions about the job."""

    def __post_init__(self) -> None:
        for name in ("nodes", "processes"):
            check(name, getattr(self, name), getattr(self, name) >= 1, "1 or more")
        check("gpus", self.gpus, self.gpus >= 0, "0 or more")
        for name in ("cpu", "memory", "shared_memory"):
            text = getattr(self, name)
            good = text is None or QUANTITY.fullmatch(text) is not None
            check(name, text, good, "a quantity, as 500m, 8 or 96Gi")
        for name in ("claim", "runtime", "account"):
            text = getattr(self, name)
            check(name, text, LABEL.fullmatch(text) is not None, "a name, as in-small-letters")
        whole = self.directory.startswith("/") and self.directory.rstrip("/") != ""
        check("directory", self.directory, whole, "an absolute path")
        check("image", self.image, self.image is None or bool(self.image.strip()), "an image")
        check("hours", self.hours, self.hours > 0, "more than 0")
        check("poll", self.poll, self.poll > 0, "more than 0")
