"""Where each stage runs: processors, memory, GPUs, pools, secrets, retries, timeouts and caching.

None of this is part of KFP's cache key, so that moving a stage never trains it again. The key is
the image, the configuration and the input artifacts: a stage whose content is the same is not run
again. KFP's own compiler adds no privilege escalation, no capabilities and seccomp RuntimeDefault
to every pod; what may enter the namespace at all is its Pod Security level (`manifests/base`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from kfp import dsl, kubernetes

USER = 10001  # of images/Dockerfile; also the group, which owns the shared volumes
SECRETS = {
    "hub": {"token": "HF_TOKEN"},
    "wandb": {"api-key": "WANDB_API_KEY"},
    "object-store": {"access-key": "AWS_ACCESS_KEY_ID", "secret-key": "AWS_SECRET_ACCESS_KEY"},
    "judge": {"api-key": "JUDGE_API_KEY"},
}
HELP = "where the stages run: small (CPU) or gpu; by default what the recipe needs"


@dataclass(frozen=True, kw_only=True)
class Placement:
    """What one stage asks of the cluster. Memory is requested in full: none of it is borrowed."""

    cpu: tuple[str, str] = ("500m", "2")
    """Processors requested, and the limit."""
    memory: str = "2Gi"
    """Memory requested, and the limit."""
    gpus: int = 0
    """GPUs of the pod."""
    gpu: str = "nvidia.com/gpu"
    """Resource that counts GPUs; a slice of a card has a name of its own."""
    nodes: Mapping[str, str] = field(default_factory=dict)
    """Labels that the node must have: the pool, or the card (nvidia.com/gpu.product)."""
    tolerations: tuple[str, ...] = ()
    """Keys of NoSchedule taints that the pod may ignore."""
    shared_memory: str | None = None
    """Size of /dev/shm, in memory; null leaves the container runtime's 64 MiB."""
    cache: str | None = None
    """Volume claim with the Hub's files, which outlives the run."""
    shared: tuple[str, str] | None = None
    """Volume claim that this pod shares with the nodes of a TrainJob, and where it is mounted."""
    secrets: tuple[str, ...] = ()
    """Names in SECRETS that become environment variables where the namespace has them."""
    retries: int = 2
    """How often a failed pod is started again, after 30 s, 60 s, ... up to 10 minutes."""
    hours: int = 1
    """Hours after which the pod is stopped and has failed."""
    reuse: bool = True
    """Take the outputs of an equal execution from KFP's cache."""


CHECK = Placement(memory="1Gi", retries=0, reuse=False)
LIGHT = Placement()
FETCH = Placement(secrets=("hub", "object-store"))
TRAIN = Placement(cpu=("1", "2"), memory="4Gi", secrets=("wandb",), hours=2)
GPU = Placement(
    cpu=("8", "16"),
    memory="96Gi",
    gpus=1,
    nodes={"llada/pool": "gpu"},
    tolerations=("nvidia.com/gpu",),
    shared_memory="16Gi",
    secrets=("wandb",),
    hours=72,
)
DISK = Placement(cpu=("2", "4"), memory="32Gi", hours=4)
JOB = Placement(memory="4Gi", shared=("training", "/training"), hours=80)
PROFILES: dict[str, dict[str, Placement]] = {
    "small": {
        "preflight": CHECK,
        "download": FETCH,
        "pretrain": TRAIN,
        "merge": LIGHT,
        "sft": TRAIN,
        "dpo": TRAIN,
        "grpo": replace(TRAIN, secrets=("wandb", "judge")),
        "evaluate": TRAIN,
        "report": LIGHT,
        "release": LIGHT,
        "trainjob": JOB,
    },
    "gpu": {
        "preflight": CHECK,
        "download": replace(DISK, secrets=FETCH.secrets, cache="model-cache", hours=12),
        "pretrain": GPU,
        "merge": DISK,
        "sft": GPU,
        "dpo": GPU,
        "grpo": replace(GPU, secrets=("wandb", "judge")),
        "evaluate": replace(GPU, secrets=()),
        "report": LIGHT,
        "release": DISK,
        "trainjob": JOB,
    },
}


def profile(recipe: str, asked: str | None = None) -> str:
    """The profile asked for, or what the recipe needs. Raises ValueError for an unknown one."""
    if asked is not None and asked not in PROFILES:
        raise ValueError(f"--placement {asked}, allowed: {', '.join(sorted(PROFILES))}")
    return asked or ("small" if recipe.startswith("tiny") else "gpu")


def placer(name: str) -> Callable[[dsl.PipelineTask], dsl.PipelineTask]:
    """A function that gives a task the placement of its stage in the profile `name`."""
    return lambda task: place(task, PROFILES[name][task.component_spec.name])


def place(task: dsl.PipelineTask, wanted: Placement) -> dsl.PipelineTask:
    """Says in KFP's words what a placement says."""
    task.set_cpu_request(wanted.cpu[0]).set_cpu_limit(wanted.cpu[1])
    task.set_memory_request(wanted.memory).set_memory_limit(wanted.memory)
    if wanted.gpus:
        task.set_accelerator_type(wanted.gpu).set_accelerator_limit(wanted.gpus)
    for label, value in wanted.nodes.items():
        kubernetes.add_node_selector(task, label, value)
    for key in wanted.tolerations:
        kubernetes.add_toleration(task, key=key, operator="Exists", effect="NoSchedule")
    if wanted.shared_memory:
        kubernetes.empty_dir_mount(
            task, "shm", "/dev/shm", medium="Memory", size_limit=wanted.shared_memory
        )
    if wanted.cache:
        kubernetes.mount_pvc(task, wanted.cache, "/cache/huggingface")  # HF_HOME of the image
    if wanted.shared:
        kubernetes.mount_pvc(task, *wanted.shared)
    for secret in wanted.secrets:
        kubernetes.use_secret_as_env(task, secret, SECRETS[secret], optional=True)
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    kubernetes.set_timeout(task, wanted.hours * 3600)
    task.set_caching_options(wanted.reuse)
    if not wanted.retries:
        return task
    return task.set_retry(
        wanted.retries, backoff_duration="30s", backoff_factor=2, backoff_max_duration="600s"
    )
