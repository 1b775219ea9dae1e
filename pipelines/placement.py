"""Where each stage runs: processors, memory, GPUs, pools, secrets, retries, timeouts and caching.

Of all this only the names of volume claims are part of KFP's cache key, beside the image, the
configuration and the input artifacts: a stage that moves is not trained again, unless it moves to
several nodes or back, which share a claim, or its base does so to that volume. KFP's compiler
forbids every pod to escalate its privileges, drops its capabilities and sets seccomp to
RuntimeDefault; the Pod Security level of the namespace (`manifests/base`) decides which other pods
may enter it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from kfp.dsl import PipelineConfig

from components.download.config import DownloadConfig
from components.preflight.config import TRAINING
from components.preflight.memory import Limits
from model.options import check
from model.training.config import Resumable

STORE = "object-store"
SECRETS = {
    "hub": {"token": "HF_TOKEN"},
    "wandb": {"api-key": "WANDB_API_KEY"},
    STORE: {
        "access-key": "AWS_ACCESS_KEY_ID",
        "secret-key": "AWS_SECRET_ACCESS_KEY",
        "session-token": "AWS_SESSION_TOKEN",
        "endpoint": "AWS_ENDPOINT_URL",
        "region": "AWS_DEFAULT_REGION",
    },
    "judge": {"api-key": "JUDGE_API_KEY"},
    "mlflow": {
        "uri": "MLFLOW_TRACKING_URI",
        "token": "MLFLOW_TRACKING_TOKEN",
        "username": "MLFLOW_TRACKING_USERNAME",
        "password": "MLFLOW_TRACKING_PASSWORD",
    },
}
SPOT = (
    "cloud.google.com/gke-spot",
    "kubernetes.azure.com/scalesetpriority",
    "karpenter.sh/capacity-type",
)
"""Keys of the taints by which clouds keep pods off machines that may be taken away."""
HOUR = 3600
ATTEMPTS = 10
"""Times that a stage is started again which goes on from its checkpoint."""
PAUSE = "60s"
"""Between two attempts; always the same, since ten that double would last for hours."""
KEPT = PipelineConfig(
    ttl_seconds_after_success=HOUR,
    ttl_seconds_after_failure=24 * HOUR,
    active_deadline_seconds=30 * 24 * HOUR,
)
"""How long the workflow and its pods stay after its end, and how long a whole run may take."""
ONE_NODE: Mapping[str, int] = {}
"""Stages that run on several nodes, and on how many: none."""
HELP = "where the stages run: small (CPU) or gpu; by default what the recipe needs"


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The resources of one stage. Memory is requested in full, lest a pod be evicted."""

    cpu: tuple[str, str] = ("500m", "2")
    """Processors requested, and the limit."""
    memory: str = "2Gi"
    """Memory requested, and the limit."""
    gpus: int = 0
    """GPUs of the pod."""
    gpu: str = "nvidia.com/gpu"
    """Resource that counts GPUs; a slice of a card has a name of its own."""
    gpu_memory: str = "80Gi"
    """Memory of each GPU; preflight and the plan compare with it what a stage holds."""
    nodes: Mapping[str, str] = field(default_factory=dict)
    """Labels that the node must have: the pool, or the card (nvidia.com/gpu.product)."""
    tolerations: tuple[str, ...] = ()
    """Keys of NoSchedule taints that the pod may ignore."""
    shared_memory: str | None = None
    """Size of /dev/shm, in memory; null leaves the container runtime's 64 MiB."""
    cache: str | None = None
    """Volume claim with the Hub's files, which outlives the run."""
    shared: tuple[str, str] | None = None
    """Volume claim that this pod shares with the nodes of a TrainJob, or with the other stages that
    read the base model there, and where it is mounted."""
    secrets: tuple[str, ...] = (STORE,)
    """Names in SECRETS that become environment variables where the namespace has them. The store's
    is in all of them, for KFP's launcher, which takes a session token from nowhere else."""
    retries: int = 2
    """How often a failed pod is started again, PAUSE after the last one ended. On an installation
    whose Argo has another retry policy than manifests/kfp gives it, fewer failures are."""
    hours: int = 1
    """Hours after which an attempt is stopped and has failed, its image and artifacts included."""
    resumes: bool = False
    """Whether the stage goes on from its checkpoint, where it is told to keep any."""
    reuse: bool = True
    """Take the outputs of an equal execution from KFP's cache."""

    @property
    def window(self) -> int:
        """Seconds, from the start of the first attempt, in which all attempts must have ended.

        This is what KFP's `backoff_max_duration` is to Argo, which kills an attempt at its end. An
        attempt may wait an hour for its machine.
        """
        return (self.retries + 1) * (self.hours + 1) * HOUR


@dataclass(frozen=True, kw_only=True)
class Scheduling:
    """How the pods of a whole run are scheduled, whatever their stage."""

    cache: bool = True
    """Whether stages take the outputs of equal executions."""
    resumes: bool = False
    """Whether training goes on from checkpoints: then it is started again up to ATTEMPTS times."""
    spot: bool = False
    """Whether pods may run on machines that the cloud may take away."""
    queue: str | None = None
    """The local queue of Kueue that admits the pods."""
    priority: str | None = None
    """Kueue's priority class of the run; KFP has no call for one of Kubernetes itself."""
    nodes: Mapping[str, int] = field(default_factory=dict)
    """How many pods train a stage together; a stage that is not named trains in its own."""

    @property
    def labels(self) -> dict[str, str]:
        """The labels by which Kueue knows the pods."""
        names = {"queue-name": self.queue, "priority-class": self.priority}
        return {f"kueue.x-k8s.io/{name}": value for name, value in names.items() if value}

    def of(self, placement: Placement) -> Placement:
        """The placement of a stage in such a run."""
        retries = ATTEMPTS if self.resumes and placement.resumes else placement.retries
        tolerations = (*placement.tolerations, *(SPOT if self.spot else ()))
        reuse = self.cache and placement.reuse
        return replace(placement, retries=retries, tolerations=tolerations, reuse=reuse)


ANYHOW = Scheduling()
CHECK = Placement(memory="1Gi", retries=0, reuse=False)
LIGHT = Placement()
FETCH = Placement(secrets=("hub", STORE))
LEARNS = ("wandb", "mlflow", STORE)
TRAIN = Placement(cpu=("1", "2"), memory="4Gi", secrets=LEARNS, hours=2, resumes=True)
GPU = Placement(
    cpu=("8", "16"),
    memory="96Gi",
    gpus=1,
    nodes={"llada/pool": "gpu"},
    tolerations=("nvidia.com/gpu",),
    shared_memory="16Gi",
    secrets=LEARNS,
    hours=72,
    resumes=True,
)
DISK = Placement(cpu=("2", "4"), memory="32Gi", hours=4)
JUDGED = (*LEARNS, "judge")
VOLUME = ("training", "/training")
"""The volume claim that many nodes may mount at once, and where it is mounted."""
JOB = Placement(memory="4Gi", shared=VOLUME, hours=80)
WEIGHTS = ("download", *TRAINING, "merge", "evaluate", "release")
"""Stages that read or write the base model."""
STAGES = {
    "preflight": (CHECK, CHECK),
    "download": (FETCH, replace(DISK, secrets=FETCH.secrets, cache="model-cache", hours=12)),
    "pretrain": (TRAIN, GPU),
    "merge": (LIGHT, DISK),
    "sft": (TRAIN, GPU),
    "dpo": (TRAIN, GPU),
    "grpo": (replace(TRAIN, secrets=JUDGED), replace(GPU, secrets=JUDGED)),
    "evaluate": (
        replace(TRAIN, secrets=(STORE,), resumes=False),
        replace(GPU, secrets=(STORE,), resumes=False),
    ),
    "report": (LIGHT, LIGHT),
    "release": (LIGHT, DISK),
    "trainjob": (JOB, JOB),
}
"""Where each stage runs: in the profile `small`, and in `gpu`."""
PROFILES: dict[str, dict[str, Placement]] = {
    "small": {stage: small for stage, (small, _) in STAGES.items()},
    "gpu": {stage: gpu for stage, (_, gpu) in STAGES.items()},
}


def profile(recipe: str, name: str | None = None) -> str:
    """The named profile, or the one that the recipe needs. Raises ValueError for another name."""
    check("--placement", name, name is None or name in PROFILES, ", ".join(sorted(PROFILES)))
    return name or ("small" if recipe.startswith("tiny") else "gpu")


def limits(profile: str, nodes: Mapping[str, int] = ONE_NODE) -> dict[str, Limits]:
    """What each stage has in the profile: a pod's memory, and the GPUs of all its nodes."""
    return {
        stage: Limits(size(own.memory), nodes.get(stage, 1) * own.gpus, size(own.gpu_memory))
        for stage, own in PROFILES[profile].items()
    }


def size(quantity: str) -> int:
    """Bytes of a quantity of memory as Kubernetes writes it, in Mi, Gi or Ti."""
    return int(quantity[:-2]) << {"Mi": 20, "Gi": 30, "Ti": 40}[quantity[-2:]]


def resumes(recipe: object) -> bool:
    """Whether every training stage of a recipe keeps checkpoints."""
    training = [config for config in vars(recipe).values() if isinstance(config, Resumable)]
    return all(config.checkpoint_uri is not None for config in training)


def claims(profile: str, scheduling: Scheduling, *, volume: bool) -> list[str]:
    """The volume claims that the pods of a run mount."""
    own = {placement.cache for placement in PROFILES[profile].values() if placement.cache}
    return sorted(own | ({VOLUME[0]} if volume or scheduling.nodes else set()))


def on_volume(config: DownloadConfig) -> bool:
    """Whether the base model, or a copy of it, is kept on VOLUME."""
    return any(
        f"{place}/".startswith(f"{VOLUME[1]}/") for place in (config.mirror, config.cache) if place
    )
