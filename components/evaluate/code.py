"""Code that is not ours: programs that a model writes for a task of lm_eval, and a task's own.

lm_eval's code tasks call the metric `code_eval` of the package `evaluate`, which would fetch a
script from the Hub and run every program in a child of this process, with all its rights. While
tasks are loaded they get `CodeEval` in its place: the same `compute`, confined by
`components.rewards.sandbox`. A task that runs programs in another way is refused.

A task that is no part of the package lm_eval may name Python functions, which are imported when it
is loaded, and metrics of the Hub, which are scripts. Both need consent; neither is confined.
Templates run in Jinja's sandbox.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import evaluate as huggingface
import lm_eval.tasks
import numpy as np
from jinja2 import BaseLoader, StrictUndefined
from jinja2.sandbox import SandboxedEnvironment
from lm_eval import utils
from lm_eval.api.task import Task
from lm_eval.tasks import _yaml_loader

from components.rewards import sandbox
from model.options import check

METRIC = "code_eval"
PACKAGE = Path(lm_eval.tasks.__file__).resolve().parent


class CodeEval:
    """`code_eval` of the package `evaluate`, in the sandbox."""

    def compute(
        self, *, references: Sequence[str], predictions: Sequence[Sequence[str]], k: Sequence[int]
    ) -> tuple[dict[str, float], dict[int, list[bool]]]:
        """pass@k for each k, and the verdict on each program of each problem.

        `references` are tests, `predictions` the programs for each of them. A problem with n
        programs, c of them right, counts 1 - C(n-c, k) / C(n, k) (Chen et al., arXiv:2107.03374).
        A k above the number of programs of a problem is left out. Raises `sandbox.SandboxError` if
        this machine cannot confine a program.
        """
        verdicts = {
            number: [sandbox.passes(program, tests) for program in programs]
            for number, (tests, programs) in enumerate(zip(references, predictions, strict=True))
        }
        fewest = min(map(len, verdicts.values()))
        shares = {
            f"pass@{size}": float(np.mean([_pass_at(size, right) for right in verdicts.values()]))
            for size in k
            if size <= fewest
        }
        return shares, verdicts


def _pass_at(size: int, verdicts: list[bool]) -> float:
    """The chance that `size` programs, drawn without replacement, hold a right one."""
    count, wrong = len(verdicts), verdicts.count(False)
    if wrong < size:
        return 1.0
    return 1.0 - float(np.prod(1.0 - size / np.arange(wrong + 1, count + 1)))


@contextlib.contextmanager
def confined(allowed: bool) -> Iterator[None]:
    """Tasks that are loaded within the block get `CodeEval` for `code_eval`.

    Within it, ValueError for a task that asks for `code_eval`, for a metric of the Hub or for a
    Python function of its own and is not allowed to, and `sandbox.SandboxError` if it asks for
    `code_eval`, and this machine cannot confine a program.
    """
    load, find = huggingface.load, _yaml_loader._import_func_in_yml

    def ours(path: str, *arguments: Any, **options: Any) -> Any:
        if path != METRIC:
            check(
                "allow_code", allowed, allowed, f"true for the metric {path}, a script of the Hub"
            )
            return load(path, *arguments, **options)
        check("allow_code", allowed, allowed, "true for a task that runs a model's programs")
        sandbox.check()
        return CodeEval()

    def own(name: str, folder: Path) -> Any:
        is_known = allowed or folder.resolve().is_relative_to(PACKAGE)
        check("allow_code", allowed, is_known, f"true for {name} of {folder}, a Python function")
        return find(name, folder)

    _sandbox_templates()
    huggingface.load, _yaml_loader._import_func_in_yml = ours, own
    try:
        yield
    finally:
        huggingface.load, _yaml_loader._import_func_in_yml = load, find


def _sandbox_templates() -> None:
    """Has lm_eval fill in the templates of its tasks in a sandbox, with its own filters."""
    settings = {"undefined": StrictUndefined, "keep_trailing_newline": True}
    templates = SandboxedEnvironment(loader=BaseLoader(), **settings)
    templates.filters.update(utils.env.filters)
    utils.env = templates


def require(name: str, task: Task, allowed: bool) -> None:
    """Raises ValueError if a task runs programs without consent, or outside the sandbox.

    And if it has a metric that is not to be had: lm_eval loads no script without consent.
    """
    config = getattr(task, "config", None)
    if getattr(config, "process_results", None) is None:
        for metric, function in getattr(task, "_metric_fn_list", {}).items():
            allowed_metric = "metrics of lm_eval, or with allow_code scripts of the Hub"
            check(f"task {name}: metric", metric, function is not None, allowed_metric)
    if not getattr(task, "UNSAFE_CODE", False):
        return
    agreed = f"true for the task {name}, which runs programs that the model writes"
    check("allow_code", allowed, allowed, agreed)
    ours = any(_is_confined(function) for function in _functions(task))
    check("tasks", name, ours, f"tasks that judge programs by {METRIC}, which runs in the sandbox")


def _functions(task: Task) -> Iterator[Callable[..., Any]]:
    """What may judge an answer to a task: its metrics, and its own processing of results."""
    process = task.config.process_results
    yield from getattr(task, "_metric_fn_list", {}).values()
    if callable(process):
        yield process


def _is_confined(function: Any) -> bool:
    """Whether a metric is `CodeEval.compute`, or a function of a module that holds one."""
    function = getattr(function, "__wrapped__", function)
    own = getattr(function, "__self__", None)
    own = getattr(own, "__self__", own)
    scope = getattr(function, "__globals__", None) or getattr(own, "__globals__", {})
    return isinstance(own, CodeEval) or any(isinstance(v, CodeEval) for v in scope.values())
