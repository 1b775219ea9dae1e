"""The dataset's test problems as a task of lm_eval, judged by `components.rewards.named.verified`.

Problems and answers are plain texts from the artifact's own rows: no loader, no template and no
cache of lm_eval or `datasets` touches them.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import lm_eval
from lm_eval.api.filter import Filter, FilterEnsemble
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import Task, TaskConfig

from components.evaluate import forms
from components.rewards import named

NAME = "unseen_problems"
VERDICT: named.Weights = (("verified", 1.0),)


def ask(lm: LM, problems: list[dict[str, Any]], form: str, *, workers: int) -> list[dict[str, Any]]:
    """A `sample` of each problem in turn; `workers` answers are judged at a time."""
    task = UnseenProblems(problems, form, workers)
    found = lm_eval.evaluate(lm=lm, task_dict={NAME: task}, bootstrap_iters=0)
    assert found is not None, "one process asks"
    return [
        sample(problem, row["resps"][0][0], bool(row["exact_match"]), form)
        for problem, row in zip(problems, found["samples"][NAME], strict=True)
    ]


def sample(problem: dict[str, Any], response: str, correct: bool, form: str) -> dict[str, Any]:
    """A problem, the response to it, what was judged of that, and the verdict."""
    return {
        "prompt": problem["prompt"],
        "answer": problem["answer"],
        "response": response,
        "solution": forms.solution(response, problem, form),
        "correct": correct,
    }


class UnseenProblems(Task):
    """One request a problem, and its own verifier's verdict on the answer."""

    VERSION = 2.0
    OUTPUT_TYPE = "generate_until"

    def __init__(self, problems: list[dict[str, Any]], form: str, workers: int) -> None:
        """`workers` answers are judged at a time."""
        # As in lm_eval's own ConfigurableTask without Task's __init__, which loads a data set.
        self.problems = problems
        self._config = TaskConfig(task=NAME, num_fewshot=0, generation_kwargs={"until": []})
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
        """The prompt alone; the form in which it is asked is the model's matter."""
        return doc["prompt"]

    def construct_requests(
        self, doc: dict[str, Any], ctx: str, *, metadata: tuple, **_: Any
    ) -> Instance:
        return Instance("generate_until", doc, (ctx, {"until": []}), 0, metadata)

    def process_results(self, doc: dict[str, Any], results: list[float]) -> dict[str, float]:
        """The verdict, which the filter has found."""
        return {"exact_match": results[0]}

    def aggregation(self) -> dict[str, Callable[[Sequence[float]], float]]:
        return {"exact_match": statistics.fmean}

    def higher_is_better(self) -> dict[str, bool]:
        return {"exact_match": True}


class Verdicts(Filter):
    """1.0 for a right answer and 0.0 for another, by each problem's own verifier."""

    def __init__(self, form: str, workers: int) -> None:
        self.form, self.workers = form, workers

    def apply(self, resps: Any, docs: list[dict[str, Any]]) -> list[float]:
        """The verdict on each answer, of which a problem has one; many are found at a time."""
        responses = [
            forms.delimited(response, problem, self.form)
            for (response,), problem in zip(resps, docs, strict=True)
        ]
        found = named.score_all(responses, docs, VERDICT, workers=self.workers)
        return [scored.total for scored in found]
