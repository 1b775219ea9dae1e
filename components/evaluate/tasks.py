"""The tasks of an evaluation by their names: the dataset's own part, made ones, and lm_eval's.

Everything that can be refused is refused here, before a model is loaded: an unknown name, data
that cannot be had, worked examples that a task does not have, programs without consent.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lm_eval.api.group import Group
from lm_eval.api.task import Task
from lm_eval.tasks import TaskManager

from components.evaluate import code, local
from components.evaluate.config import EvaluateConfig
from components.evaluate.task import UnseenProblems
from components.failure import explain
from model.options import check

TEST = "test"
OWN = (TEST, *local.MADE)
NEAREST = 3  # names like an unknown one that its refusal shows
FEWSHOT_SEED = 1234  # of the draw of worked examples: lm_eval's own, so that scores compare


class Suite(NamedTuple):
    """The tasks of an evaluation, by name and in their order, and lm_eval's groups of them."""

    tasks: dict[str, Task]
    groups: dict[str, Group]
    parts: dict[str, list[str]]
    """The names of the tasks and groups that each group holds."""
    names: list[str]
    """What has a score of its own: the tasks and groups that the configuration names. A tag of
    lm_eval is replaced by its tasks."""

    @property
    def as_task_dict(self) -> dict[str, Any]:
        """The tasks as `lm_eval.evaluate` takes them."""
        return {"tasks": self.tasks, "groups": self.groups, "group_map": self.parts}


def suite(config: EvaluateConfig, rows: Sequence[dict[str, Any]]) -> Suite:
    """The tasks that a configuration names; `rows` are the dataset's own test problems.

    Raises ValueError naming the task and what is wrong with it.
    """
    result = Suite({}, {}, {}, [])
    others = [name for name in config.tasks if name not in OWN]
    manager = _manager(config.task_files, others) if others else None
    for name in config.tasks:
        if name in OWN:
            is_test = name == TEST
            own = rows if is_test else local.problems(name, config.limit, config.seed)
            _add(result, {"tasks": {name: _unseen(name, own, config)}})
        elif manager is not None:
            _add(result, _load(manager, name, config), name)
    return result


def _unseen(name: str, rows: Sequence[dict[str, Any]], config: EvaluateConfig) -> UnseenProblems:
    """A task of ours; a problem without a system message of its own gets the configuration's."""
    system = {"system": config.system} if config.system else {}
    problems = [{**system, **row} for row in rows]
    return UnseenProblems(name, problems, config.form, config.reward_workers)


def _add(result: Suite, loaded: Mapping[str, Any], name: str | None = None) -> None:
    twice = result.tasks.keys() & loaded["tasks"].keys()
    check("tasks", name, not twice, f"each task once, {', '.join(sorted(twice))} is named twice")
    result.tasks.update(loaded["tasks"])
    result.groups.update(loaded.get("groups", {}))
    result.parts.update(loaded.get("group_map", {}))
    group = result.groups.get(name or "")
    has_score = group is not None and group.has_aggregation
    result.names.extend([str(name)] if has_score else loaded["tasks"])


def _manager(files: Sequence[str], names: Sequence[str]) -> TaskManager:
    """lm_eval's index of tasks: of `files` alone if they hold all names, as that is much faster."""
    folders = [_folder(number, Path(file)) for number, file in enumerate(files)]
    own = TaskManager(include_path=folders, include_defaults=False) if folders else None
    if own is not None and set(names) <= set(own.all_tasks):
        return own
    manager = TaskManager(include_path=folders or None)
    for name in names:
        _require_known(name, manager.all_tasks)
    return manager


def _folder(number: int, path: Path) -> Path:
    """The directory that is searched for tasks: a file's own, since its functions lie there."""
    is_file = path.is_file() and path.suffix == ".yaml"
    allowed = "a YAML file, or a directory with YAML files, of lm_eval's format"
    check(f"task_files[{number}]", str(path), path.is_dir() or is_file, allowed)
    return path if path.is_dir() else path.parent


def _require_known(name: str, known: Sequence[str]) -> None:
    if name in known:
        return
    near = difflib.get_close_matches(name, [*OWN, *known], NEAREST, cutoff=0)
    raise ValueError(
        f"tasks: unknown task {name!r}, allowed: {', '.join(OWN)} or a task of lm_eval; "
        f"the nearest names are {', '.join(near)}"
    )


def _load(manager: TaskManager, name: str, config: EvaluateConfig) -> Mapping[str, Any]:
    """A task, group or tag with its data. Raises ValueError naming it, for data it cannot have."""
    try:
        with code.confined(config.allow_code):
            loaded = manager.load([name])
    except ValueError as error:
        raise ValueError(f"task {name}: {explain(error)}") from None
    except Exception as error:  # whatever the loader of a data set or a task's own code raises
        kind = type(error).__name__
        raise ValueError(
            f"task {name}: cannot be loaded: {kind}: {explain(error)}; allowed: a task whose data "
            "are on this machine, or on the Hub where there is a network"
        ) from None
    for own, task in loaded["tasks"].items():
        code.require(own, task, config.allow_code)
        _set_examples(own, task, config.fewshot)
    return loaded


def _set_examples(name: str, task: Task, count: int | None) -> None:
    """Sets the number of worked examples. Raises ValueError if the task does not have as many."""
    if count is not None:
        task.set_config("num_fewshot", count)
    task.set_fewshot_seed(FEWSHOT_SEED)
    wanted = task.config.num_fewshot or 0
    if wanted == 0:
        return
    has_split = task.has_training_docs() or task.has_validation_docs()
    settings = getattr(task, "fewshot_cfg", None)
    has_own = settings is not None and (settings.split or settings.samples)
    allowed = f"0 for the task {name}, which has no examples"
    check("fewshot", wanted, bool(has_split or has_own), allowed)
    sampler = getattr(task, "sampler", None)
    known = len(sampler.df) if sampler is not None else wanted
    check("fewshot", wanted, wanted <= known, f"up to {known} for the task {name}")
