"""A LLaDA model as an `LM` of lm_eval: generation by denoising, likelihood by Monte Carlo.

lm_eval brings the requests, the metrics and the bookkeeping; this module answers the requests. The
room's other modules do the parts: `requests` (texts to tokens), `store` (what is finished already),
`team` (several processes), `asking` (the model's work).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from components.evaluate import asking, requests
from components.evaluate.config import EvaluateConfig
from components.evaluate.requests import Query
from components.evaluate.store import Finished, Store
from components.evaluate.team import Team
from model.llada import LLaDA


class DiffusionLM(LM):
    """Block-wise denoising, batched over prompts of different lengths, and likelihoods.

    What a request gets does not depend on the other requests, their order, the batch, or the number
    of processes. Equal requests are asked once.
    """

    def __init__(
        self,
        model: LLaDA,
        tokenizer: PreTrainedTokenizerBase,
        config: EvaluateConfig,
        *,
        store: Store | None = None,
        team: Team | None = None,
    ) -> None:
        """`store` has what is finished already and keeps what is finished now.

        `team` is this process and the others: all but the first call `serve`, and the first
        `close`.
        """
        super().__init__()
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.encoder = requests.Encoder(tokenizer, config, model.config.max_sequence_length)
        self.stops = self.encoder.ends
        self.store, self.team = store, team or Team()
        self.finished: dict[str, Finished] = {}

    def encode(self, problem: Mapping[str, Any]) -> list[int]:
        """Token ids of a problem's prompt, in the form of this evaluation."""
        return self.encoder.problem(problem)

    def too_long(self, prompt: Sequence[int]) -> str | None:
        """Why the context has no room for a prompt and its answer, or None if it has."""
        query = Query("answer", "", tuple(prompt))
        return None if self.encoder.fits(query) else self.encoder.reason(query)

    def check(self, instances: Sequence[Instance]) -> None:
        """Raises ValueError naming a request that is empty, or that the context cannot hold."""
        requests.Encoder(self.tokenizer, self.config, self.encoder.context).queries(instances)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """The answers, cut at the end of the turn and at stop texts.

        A problem of ours keeps the delimiters of its answer; if it leaves no room for an answer,
        its answer is empty. Raises ValueError, before anything is asked, naming any other request
        that does not fit, unless `too_long` says to cut its prompt.
        """
        queries = self.encoder.queries(requests)
        values = self._ask([query for query in queries if self.encoder.fits(query)])
        return [str(values[q.digest].value) if q.digest in values else "" for q in queries]

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """The Monte Carlo bound of each text's log-likelihood in nats, given its context.

        With `choices` "confidence" it is the score of `model.choices`. The second value, whether
        greedy decoding gives the text, is False unless `check_greedy` asks for it.
        """
        queries = self.encoder.queries(requests)
        values = self._ask(queries)
        return [values[query.digest].value for query in queries]  # type: ignore[misc]

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """The Monte Carlo bound of each whole text's log-likelihood in nats.

        Raises ValueError naming a text longer than the context: no part of a text is left out.
        """
        return [value for value, _ in self.loglikelihood(requests)]

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The messages in a form that only this class reads (`requests.as_context`).

        Whether the assistant's last message is to go on is seen from its role.
        """
        return requests.as_context(chat_history)

    @property
    def tokenizer_name(self) -> str:
        """The name under which lm_eval would cache requests."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The template, for lm_eval's own record."""
        return str(self.tokenizer.chat_template) if chat_template else ""

    def options(self) -> dict:
        """The options of `sampler.stream` for this evaluation."""
        return asking.sampling(self.tokenizer, self.config)

    def serve(self) -> None:
        """Works for the first process of the team until that process calls `close`."""
        while (queries := self.team.announce(None)) is not None:
            self._work(queries)
        self.team.leave()

    def close(self) -> None:
        """Lets the other processes of the team end."""
        self.team.announce(None)
        self.team.leave()

    def throughput(self) -> dict[str, Any]:
        """What the requests of this evaluation have cost, those of earlier attempts included.

        `tokens` are those up to each answer's stop; prompts are counted apart. Seconds are those
        of all processes over their number.
        """
        answers = [each for each in self.finished.values() if isinstance(each.value, str)]
        scores = [each for each in self.finished.values() if not isinstance(each.value, str)]
        seconds = self._seconds(answers)
        tokens, passes = self.tokens, self.passes
        return {
            "answers": len(answers),
            "tokens": tokens,
            "prompt_tokens": sum(each.prompt_tokens for each in self.finished.values()),
            "forward_passes": passes,
            "forward_passes_per_answer": passes / max(len(answers), 1),
            "rows_per_pass": _ratio(answers, "rows", "batch_passes"),
            "generation_seconds": seconds,
            "tokens_per_second": tokens / seconds if seconds else 0.0,
            "likelihoods": len(scores),
            "likelihood_seconds": self._seconds(scores),
            "truncated": self.encoder.truncated,
            "processes": self.team.size,
        }

    @property
    def tokens(self) -> int:
        """Tokens generated up to the stops."""
        return sum(each.tokens for each in self.finished.values())

    @property
    def passes(self) -> int:
        """Forward passes, summed over answers."""
        return sum(each.passes for each in self.finished.values())

    @property
    def answers(self) -> int:
        """Answers generated."""
        return sum(isinstance(each.value, str) for each in self.finished.values())

    @property
    def seconds(self) -> float:
        """Seconds spent on answers."""
        return self._seconds([e for e in self.finished.values() if isinstance(e.value, str)])

    def _seconds(self, finished: Sequence[Finished]) -> float:
        return sum(each.seconds for each in finished) / self.team.size

    def _ask(self, queries: Sequence[Query]) -> dict[str, Finished]:
        """What each query gets, by its digest; those that are finished are not asked again."""
        distinct = {query.digest: query for query in queries}
        if self.store is not None:
            for digest, query in distinct.items():
                if digest not in self.finished and (finished := self.store.get(query)):
                    self.finished[digest] = finished
        missing = [query for digest, query in distinct.items() if digest not in self.finished]
        if missing:
            self.finished |= self._work(self.team.announce(missing) or [])
        return self.finished

    def _work(self, queries: Sequence[Query]) -> dict[str, Finished]:
        """This process's part of the queries; all parts where this is the first process."""
        part = self.team.share(queries)
        values: dict[str, Finished] = {}
        hidden = True if self.team.rank else None
        with tqdm(total=len(part), desc="evaluate", unit="request", disable=hidden) as bar:
            for query, finished in self._each(part):
                if self.store is not None:
                    self.store.add(query, finished)
                values[query.digest] = finished
                bar.update()
        if self.store is not None:
            self.store.save()
        return self.team.collect(values)

    def _each(self, queries: Sequence[Query]) -> Iterator[tuple[Query, Finished]]:
        answers = [query for query in queries if query.kind == "answer"]
        scores = [query for query in queries if query.kind == "likelihood"]
        if answers:
            yield from asking.answer_each(self.model, self.encoder, answers)
        yield from asking.score_each(self.model, self.config, scores)


def _ratio(finished: Sequence[Finished], above: str, below: str) -> float:
    """The quotient of two sums over finished requests, 0 where there is nothing to divide by."""
    total = sum(getattr(each, below) for each in finished)
    return sum(getattr(each, above) for each in finished) / total if total else 0.0
