"""Problems of ours as a task of lm_eval, judged by `components.rewards.named.is_right`.

Problems and answers are plain texts from the artifact's own rows. They pass through no loader,
template or cache of lm_eval or `datasets`, which may alter texts and confuse datasets.
"""

import itertools
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lm_eval.api.filter import Filter, FilterEnsemble
from lm_eval.api.instance import Instance
from lm_eval.api.task import Task, TaskConfig

from components.evaluate import forms
from components.evaluate.config import Form
from components.rewards import named

VERDICT: named.Weights = (("verified", 1.0),)
"""By this reward a row is usable or not: it must be possible to judge an answer to it."""


def sample(problem: named.Problem, response: str, correct: bool, form: Form) -> dict[str, Any]:
    """A problem, the response to it, the part of the response that was judged, and the verdict."""
    return {
        "prompt": problem["prompt"],
        "answer": problem["answer"],
        "response": response,
        "solution": forms.solution(response, problem, form),
        "correct": correct,
    }


class UnseenProblems(Task):
    """One request per problem; the metric is the verdict of the problem's own verifier."""

    VERSION = 2.0
    OUTPUT_TYPE = "generate_until"

    def __init__(self, name: str, problems: list[dict[str, Any]], form: Form, workers: int) -> None:
        """`workers` answers are judged at the same time."""
        # Task.__init__ is not called, because it loads a dataset; lm_eval's own ConfigurableTask
        # does without it as well.
        self.problems = problems
        self._config = TaskConfig(task=name, num_fewshot=0, generation_kwargs={"until": []})
        self._filters = [FilterEnsemble("verdict", [lambda: Verdicts(form, workers)])]

    def has_training_docs(self) -> bool:
        return False

    def has_validation_docs(self) -> bool:
        return False

    def has_test_docs(self) -> bool:
        return True

    def test_docs(self) -> list[dict[str, Any]]:
        return self.problems

    def doc_to_text(self, doc: dict[str, Any]) -> str:
        return doc["prompt"]

    def doc_to_target(self, doc: dict[str, Any]) -> str:
        return doc["answer"]

    def fewshot_context(self, doc: dict[str, Any], *_: Any, **__: Any) -> str:
        """The prompt alone: `DiffusionLM` applies the template, from the request's problem."""
        return doc["prompt"]

    def construct_requests(
        self, doc: dict[str, Any], ctx: str, *, metadata: tuple, **_: Any
    ) -> Instance:
        return Instance("generate_until", doc, (ctx, {"until": []}), 0, metadata)

    def process_results(self, doc: dict[str, Any], results: list[float]) -> dict[str, float]:
        """The verdict that the filter `Verdicts` has put in the response's place."""
        return {"exact_match": results[0]}

    def aggregation(self) -> dict[str, Callable[[Sequence[float]], float]]:
        return {"exact_match": statistics.fmean}

    def higher_is_better(self) -> dict[str, bool]:
        return {"exact_match": True}


class Verdicts(Filter):
    """Replaces each response by its verdict: 1.0 if it is right, else 0.0.

    A filter gets all responses at once, so that many can be judged at the same time; a task's
    `process_results` gets them one by one.
    """

    def __init__(self, form: Form, workers: int) -> None:
        self.form, self.workers = form, workers

    def apply(self, resps: Any, docs: list[dict[str, Any]]) -> list[float]:
        """The verdicts, in the order of the problems; each problem has one response."""
        responses = [response for (response,) in resps]
        # Threads are enough: the slow part of judging runs in processes of its own.
        with ThreadPoolExecutor(self.workers) as pool:
            verdicts = pool.map(forms.is_right, responses, docs, itertools.repeat(self.form))
            return [float(verdict) for verdict in verdicts]
