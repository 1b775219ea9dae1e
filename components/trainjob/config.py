"""The configuration of a training stage on several nodes, and of the job that runs it."""

import re
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from components.grpo.config import GrpoConfig
from model.options import Checked, check, check_text
from model.training.config import Resumable

LABEL = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?")
QUANTITY = re.compile(r"(?=[\d.]*[1-9])\d+(\.\d+)?(m|k|[KMGTP]i?)?")
STORE = (
    ("AWS_ACCESS_KEY_ID", "object-store", "access-key"),
    ("AWS_SECRET_ACCESS_KEY", "object-store", "secret-key"),
    ("AWS_SESSION_TOKEN", "object-store", "session-token"),
    ("AWS_ENDPOINT_URL", "object-store", "endpoint"),
    ("AWS_DEFAULT_REGION", "object-store", "region"),
)
"""What checkpoints in a store need, from the secret that `pipelines.store` writes."""
Stage = Literal["pretrain", "sft", "dpo", "grpo"]
Settings = TypeVar("Settings", bound=Resumable)


@dataclass(frozen=True, kw_only=True)
class TrainjobConfig(Checked):
    """A training stage on several nodes. The defaults are those of the 8B recipe."""

    stage: Stage = "pretrain"
    """The stage that the nodes run; its own configuration is `settings`."""
    nodes: int = 2
    """Pods that train together."""
    processes: int = 1
    """Processes per node: one per GPU, or a single one on a node without GPUs."""
    gpus: int = 1
    """GPUs per node."""
    gpu: str = "nvidia.com/gpu"
    """Name of the Kubernetes resource that counts GPUs."""
    cpu: str = "8"
    """Processors per node, a Kubernetes quantity."""
    memory: str = "96Gi"
    """Memory per node, a Kubernetes quantity."""
    shared_memory: str | None = "16Gi"
    """Size of a node's /dev/shm, part of its memory; null leaves the runtime's 64 MiB."""
    labels: tuple[tuple[str, str], ...] = ()
    """Labels of the job itself, as pairs of name and value: Kueue's queue, for one."""
    pool: tuple[tuple[str, str], ...] = ()
    """Labels that the machines must have, as pairs of name and value."""
    tolerations: tuple[str, ...] = ("nvidia.com/gpu",)
    """Keys of NoSchedule taints that the pods may ignore."""
    claim: str = "training"
    """Volume claim (ReadWriteMany) through which inputs and outputs travel."""
    directory: str = "/training"
    """Directory at which the claim is mounted, in this pod and on the nodes."""
    secrets: tuple[tuple[str, str, str], ...] = STORE
    """Environment variables of the nodes, as variable, secret and key; missing secrets are no
    error, their variables are left out."""
    runtime: str = "torch-distributed"
    """Name of the training runtime; its torch policy tells torchrun the addresses of the nodes."""
    runtime_kind: Literal["ClusterTrainingRuntime", "TrainingRuntime"] = "ClusterTrainingRuntime"
    """Whether the runtime belongs to the cluster or to the namespace."""
    account: str = "llada-trainer"
    """Service account of the nodes; it needs no rights."""
    image: str | None = None
    """Image of the nodes; null takes the image of this pod."""
    namespace: str | None = None
    """Namespace of the job; null takes the namespace of this pod, or of the kubeconfig."""
    hours: float = 72.0
    """Hours after which the job is stopped and counts as failed."""
    poll: float = 5.0
    """Seconds between two requests for the job's state."""

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
        # The value of a label may be empty, which check_names would refuse.
        for name in ("labels", "pool"):
            pairs = getattr(self, name)
            check_names(name, tuple((label, value or label) for label, value in pairs))
        check("hours", self.hours, 0 < self.hours <= 10_000, "more than 0, up to 10000")
        check("poll", self.poll, 0 < self.poll <= 3600, "more than 0, up to 3600")


def fit(settings: Settings, *, nodes: int, processes: int) -> Settings:
    """The settings of a stage with a micro-batch by which so many processes share the batch evenly.

    A smaller micro-batch changes no result. Raises ValueError naming the numbers of nodes that fit
    where the batch (in grpo its prompts) cannot be shared out.
    """
    group = settings.group if isinstance(settings, GrpoConfig) else 1
    units = settings.batch_size // group
    world = nodes * processes
    numbers = [n for n in range(1, units + 1) if units % (n * processes) == 0]
    each = f" of {processes} processes" if processes > 1 else ""
    name = "batch_size" if group == 1 else "prompts of a step"
    allowed = ", ".join(map(str, numbers)) or "fewer processes a node"
    check("nodes", nodes, units % world == 0, f"{allowed}: nodes{each} that share {name}={units}")
    share = units // world
    if group > 1 or share % settings.micro_batch_size == 0:
        return settings
    size = max(n for n in range(1, settings.micro_batch_size + 1) if share % n == 0)
    return replace(settings, micro_batch_size=size)


def check_names(name: str, value: str | tuple | None) -> None:
    """Raises ValueError unless all texts in `value` are names of letters, digits and - _ . /.

    A name starts and ends with a letter or a digit. None is fine.
    """
    if isinstance(value, tuple):
        for number, item in enumerate(value):
            check_names(f"{name}[{number}]", item)
    elif value is not None:
        check(name, value, NAME.fullmatch(value) is not None, "a name, as nvidia.com/gpu")
