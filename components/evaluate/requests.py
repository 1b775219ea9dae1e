"""What the harness asks, as tokens: encoding, fitting into the context, and the answer's text.

lm_eval hands over texts. Those with the chat template are the messages themselves behind a mark
that is drawn at every start, so that no text can become a control token, and none can pass for the
messages.
"""

import bisect
import hashlib
import json
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from lm_eval.api.instance import Instance
from transformers import PreTrainedTokenizerBase

from components.evaluate import forms
from components.evaluate.config import EvaluateConfig
from model.sampler import before_stop
from model.tokenizer import encode_chat, stop_tokens

CHAT = f"<|{secrets.token_hex(16)}|>"
PROBLEM = ("prompt", "answer", "verifier")
Kind = Literal["answer", "likelihood"]


@dataclass(frozen=True)
class Query:
    """A request in tokens: an answer to generate, or a text whose likelihood is asked."""

    kind: Kind
    name: str
    """The task and the number of its problem, for messages."""
    prompt: tuple[int, ...]
    text: tuple[int, ...] = ()
    """The tokens whose likelihood is asked."""
    stops: tuple[str, ...] = ()
    """Texts that end an answer."""
    is_problem: bool = False
    """Whether the answer keeps the tokens of thought and solution, by which we judge it."""
    draw: int = 0
    """Which of several draws of the same answer this is."""

    @cached_property
    def digest(self) -> str:
        """What tells the request from others, whatever model and settings it is asked with."""
        content = [self.kind, self.prompt, self.text, self.stops, self.is_problem, self.draw]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def number(self) -> int:
        """The digest as a number below 2^63, for the request's own draws."""
        return int(self.digest, 16) % 2**63

    @property
    def size(self) -> int:
        """Tokens of prompt and text."""
        return len(self.prompt) + len(self.text)


class Encoder:
    """Turns the requests of lm_eval into queries."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, config: EvaluateConfig, context: int
    ) -> None:
        """`context` is the model's largest number of tokens."""
        self.tokenizer, self.config, self.context = tokenizer, config, context
        self.ends = stop_tokens(tokenizer)
        added = tokenizer.added_tokens_decoder.items()
        self.special = {number for number, token in added if token.special}
        self.truncated = 0

    def queries(self, requests: Sequence[Instance]) -> list[Query]:
        """A query for each request.

        Raises ValueError naming the first that does not fit the context, unless `too_long` says to
        cut its prompt, and a prompt that is empty. A problem of ours is never refused: the caller
        leaves it out (`fits`).
        """
        made = [self._query(request) for request in requests]
        fitting = [self._fitted(query) for query in made]
        self.truncated += sum(ours != theirs for ours, theirs in zip(fitting, made, strict=True))
        return self._numbered(fitting)

    def fits(self, query: Query) -> bool:
        """Whether the context has room for a query and its answer."""
        return query.size + self._room(query) <= self.context

    def problem(self, problem: Mapping[str, Any]) -> list[int]:
        """Token ids of a problem's prompt, in the form of this evaluation."""
        return forms.tokens(self.tokenizer, problem, self.config.form)

    def _query(self, request: Instance) -> Query:
        name = f"{request.task_name or 'a request'}, problem {request.doc_id}"
        if request.request_type == "generate_until":
            return self._answer(name, request)
        if request.request_type == "loglikelihood_rolling":
            text = forms.plain(self.tokenizer, request.args[0])
            return Query("likelihood", name, (), _not_empty(name, text))
        prompt, text = encode_pair(self.tokenizer, *request.args[:2])
        return Query("likelihood", name, tuple(prompt), _not_empty(name, text))

    def _answer(self, name: str, request: Instance) -> Query:
        context, options = request.args[:2]
        until = options.get("until") or []
        stops = (*([until] if isinstance(until, str) else until), *self.config.stop)
        stops = tuple(stop for stop in stops if stop)
        if is_problem(request):
            prompt = tuple(self.problem(request.doc))
            return Query("answer", name, prompt, stops=stops, is_problem=True)
        prompt = tuple(encode_context(self.tokenizer, context))
        if not prompt:
            raise ValueError(f"{name}: the prompt is empty, allowed: a text")
        return Query("answer", name, prompt, stops=stops)

    def _room(self, query: Query) -> int:
        return self.config.gen_length if query.kind == "answer" else 0

    def _fitted(self, query: Query) -> Query:
        room = self.context - len(query.text) - self._room(query)
        if query.is_problem or len(query.prompt) <= room:
            return query
        if self.config.too_long == "truncate" and room > 0 and query.prompt:
            return replace(query, prompt=query.prompt[-room:])
        raise ValueError(f"{query.name}: {self.reason(query)}")

    def reason(self, query: Query) -> str:
        """Why a query does not fit."""
        parts = [f"prompt of {len(query.prompt)} tokens"] if query.prompt else []
        parts += [f"text of {len(query.text)}"] if query.text else []
        parts += [f"gen_length={self.config.gen_length}"] if query.kind == "answer" else []
        return f"{' + '.join(parts)}, allowed: at most {self.context} (the context)"

    def _numbered(self, queries: list[Query]) -> list[Query]:
        """With the draws of equal requests told apart, where answers are drawn at all."""
        if not self.config.temperature and self.config.remasking != "random":
            return queries
        seen: Counter[str] = Counter()
        numbered = []
        for query in queries:
            numbered.append(
                replace(query, draw=seen[query.digest]) if query.kind == "answer" else query
            )
            seen[query.digest] += 1
        return numbered

    def answer_text(self, query: Query, tokens: Sequence[int]) -> tuple[str, int]:
        """The text of an answer up to its stop, and how many tokens it took."""
        content = self._content(query, tokens)
        text = self.tokenizer.decode(content)
        cut = before_texts(str(text), query.stops)
        if cut == text:
            return cut, len(before_stop(tokens, self.ends))
        return cut, bisect.bisect_left(
            range(len(content)), True, key=lambda count: self.has_stop(query, content[:count])
        )

    def has_stop(self, query: Query, tokens: Sequence[int]) -> bool:
        """Whether an answer has come to one of its stop texts."""
        if not query.stops:
            return False
        text = self.tokenizer.decode(self._content(query, tokens))
        return any(stop in text for stop in query.stops)

    def _content(self, query: Query, tokens: Sequence[int]) -> list[int]:
        """The tokens before the end; tasks of others judge texts without control tokens."""
        content = before_stop(tokens, self.ends)
        if query.is_problem:
            return content
        return [token for token in content if token not in self.special]


def is_problem(request: Instance) -> bool:
    """Whether a request is a problem in our own format, asked as it is."""
    doc = request.doc
    is_ours = isinstance(doc, Mapping) and all(name in doc for name in PROBLEM)
    return is_ours and request.args[0] == doc["prompt"]


def before_texts(text: str, stops: Iterable[str]) -> str:
    """The text before the first of the stop texts."""
    for stop in stops:
        text = text.split(stop)[0]
    return text


def as_context(messages: Sequence[Mapping[str, str]]) -> str:
    """Messages as a context, to which lm_eval may append the beginning of the answer."""
    return CHAT + json.dumps(list(messages), ensure_ascii=False)


def encode_context(tokenizer: PreTrainedTokenizerBase, context: str, text: str = "") -> list[int]:
    """Token ids of a context with a text behind it.

    Where the last message is the assistant's, the answer goes on with it.
    """
    if not context.startswith(CHAT):
        return forms.plain(tokenizer, context + text)
    messages, rest = _messages(context)
    if messages[-1]["role"] == "assistant":
        rest = messages.pop()["content"] + rest
    return encode_chat(tokenizer, messages, rest + text)


def readable(context: str) -> str:
    """A context for people: its messages a paragraph each."""
    if not context.startswith(CHAT):
        return context
    messages, rest = _messages(context)
    turns = [f"{message['role']}: {message['content']}" for message in messages]
    return "\n\n".join([*turns, *([rest] if rest else [])])


def encode_pair(
    tokenizer: PreTrainedTokenizerBase, context: str, text: str
) -> tuple[list[int], list[int]]:
    """Token ids of a context and of the text behind it, as LLaDA's evaluation splits them.

    White space at the end of the context moves to the text. Both are encoded together, and split
    where the context alone would end. If the text's first letters have merged into the context's
    last token, that token counts as the text's.
    """
    if not context.startswith(CHAT):
        bare = context.rstrip()
        context, text = bare, context[len(bare) :] + text
    head = encode_context(tokenizer, context) if context else []
    whole = encode_context(tokenizer, context, text)
    end = min(len(head), len(whole) - 1) if text else len(whole)
    return whole[:end], whole[end:]


def _messages(context: str) -> tuple[list[dict[str, str]], str]:
    """The messages of a context, and the text behind them."""
    messages, end = json.JSONDecoder().raw_decode(context, len(CHAT))
    return messages, context[end:]


def _not_empty(name: str, text: Sequence[int]) -> tuple[int, ...]:
    if not text:
        raise ValueError(f"{name}: the answer is empty, allowed: one token or more")
    return tuple(text)
