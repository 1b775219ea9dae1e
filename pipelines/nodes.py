"""How many pods train a stage together, from the command line's `--nodes STAGE=N`.

`placing.py` makes a TrainJob of it, which the stage's own pod starts.
"""

from components.trainjob.config import fit
from model.options import check
from model.training.config import Resumable
from pipelines.placement import PROFILES
from pipelines.placing import trainjob

HELP = "pods that train a stage together, as a TrainJob: pretrain=4"


def numbers(settings: list[str], recipe: object, profile: str) -> dict[str, int]:
    """The numbers of `--nodes STAGE=N`. Raises ValueError for a stage or number that cannot be."""
    training = [name for name, config in vars(recipe).items() if isinstance(config, Resumable)]
    chosen: dict[str, int] = {}
    for setting in settings:
        stage, _, text = setting.partition("=")
        good = stage in training and stage not in chosen and text.isdecimal() and int(text) > 0
        check("--nodes", setting, good, f"STAGE=N, once each of {', '.join(training)}")
        job = trainjob(stage, PROFILES[profile][stage], int(text), {})
        fit(getattr(recipe, stage), nodes=job.nodes, processes=job.processes)
        chosen[stage] = job.nodes
    return chosen
