"""How a training stage is spread over nodes, and how its job is watched."""

import re
from dataclasses import dataclass
from typing import Literal

from model.options import Checked, check, check_text

LABEL = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?")
QUANTITY = re.compile(r"(?=[\d.]*[1-9])\d+(\.\d+)?(m|k|[KMGTP]i?)?")


@dataclass(frozen=True, kw_only=True)
class TrainjobConfig(Checked):
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
        super().__post_init__()
        for name in ("nodes", "processes"):
            count = getattr(self, name)
            check(name, count, 1 <= count <= 10_000, "1 or more, up to 10000")
        check("gpus", self.gpus, 0 <= self.gpus <= 1000, "0 or more, up to 1000")
        for name in ("cpu", "memory", "shared_memory"):
            text = getattr(self, name)
            good = text is None or QUANTITY.fullmatch(text) is not None
            check(name, text, good, "a quantity, as 500m, 8 or 96Gi")
        for name in ("claim", "runtime", "account"):
            text = getattr(self, name)
            check(name, text, LABEL.fullmatch(text) is not None, "a name, as in-small-letters")
        whole = self.directory.startswith("/") and self.directory.rstrip("/") != ""
        check("directory", self.directory, whole, "an absolute path")
        check_text("image", self.image, "an image")
        for name in ("gpu", "namespace", "tolerations", "secrets"):
            check_names(name, getattr(self, name))
        # The value of a label may be empty.
        check_names("pool", tuple((label, value or label) for label, value in self.pool))
        check("hours", self.hours, 0 < self.hours <= 10_000, "more than 0, up to 10000")
        check("poll", self.poll, 0 < self.poll <= 3600, "more than 0, up to 3600")


def check_names(name: str, value: str | tuple | None) -> None:
    """Raises ValueError unless every text within is a name: letters, digits, and - _ . / in it."""
    if isinstance(value, tuple):
        for number, item in enumerate(value):
            check_names(f"{name}[{number}]", item)
    elif value is not None:
        check(name, value, NAME.fullmatch(value) is not None, "a name, as nvidia.com/gpu")
