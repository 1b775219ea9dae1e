"""Asks a model: opens it with its adapters, encodes what it is asked, and samples the answers.

The only tokens that a text cannot spell are those of the chat template, which
`model.tokenizer.encode_chat` places here as in training and evaluation. Command lines are
`generate` and `chat`. Shapes: B prompts, P prompt, G answer.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from components import adapted, artifact
from components.download.vocabulary import check_fit
from components.rewards import named
from model import batching, canvas, lora, sampler
from model.llada import LLaDA
from model.options import check, check_type
from model.tokenizer import EOT, encode_chat
from pipelines.lookup import Located
from pipelines.options import AskOptions

Messages = Sequence[Mapping[str, str]]
Watch = Callable[[list[int], int], None]
"""Takes the tokens of the answer's canvas and how many passes there were."""


@dataclass(frozen=True)
class OpenModel:
    """A model that answers, with its tokenizer."""

    network: LLaDA
    tokenizer: PreTrainedTokenizerBase
    fingerprint: str
    """Differs where the weights or the adapters do."""

    @property
    def stops(self) -> list[int]:
        """The tokens that end an answer."""
        ids = self.tokenizer.convert_tokens_to_ids([self.tokenizer.eos_token, EOT])
        assert isinstance(ids, list)
        return ids


@dataclass(frozen=True)
class Answer:
    """The text of an answer, its delimiters included, and how many tokens it took."""

    text: str
    tokens: int

    @property
    def solution(self) -> str | None:
        """The text between the solution's delimiters, or None."""
        return named.solution(self.text)

    def shown(self, *, think: bool) -> str:
        """The answer for people: thought and solution without delimiters, or the solution alone.

        An answer that is not delimited as answers are is shown as it is.
        """
        parts = named.FORMAT.fullmatch(self.text)
        if parts is None:
            return self.text.strip()
        thought, solution = (part.strip() for part in parts.groups())
        return "\n\n".join(part for part in (thought, solution) if part) if think else solution


@dataclass(frozen=True)
class Asked:
    """Answers, and what they took together."""

    answers: list[Answer]
    passes: int
    seconds: float

    @property
    def tokens(self) -> int:
        """Tokens of all answers, up to their ends."""
        return sum(answer.tokens for answer in self.answers)

    def __str__(self) -> str:
        return figures(self.tokens, self.passes, self.seconds)


def figures(tokens: int, passes: int, seconds: float) -> str:
    """What answers took, for people."""
    speed = tokens / seconds if seconds else 0.0
    return f"{tokens} tokens, {passes} passes, {seconds:.2f} s, {speed:.0f} tokens/s"


def open_model(located: Located, adapters: Sequence[Path]) -> OpenModel:
    """The model with its adapters, in bf16 on a GPU and fp32 on a CPU, as evaluations have it.

    Raises ValueError and FileNotFoundError naming the file or adapter that does not fit.
    """
    adapted.check(located.path, adapters)
    if adapted.tokenizer_directory(located.path, adapters) == located.path:
        check_fit(located.path)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    network, tokenizer = adapted.load(located.path, adapters, dtype=dtype, device=device)
    parts = [located.fingerprint, *(_fingerprint(path) for path in adapters)]
    return OpenModel(network, tokenizer, "+".join(parts))


def _fingerprint(adapter: Path) -> str:
    return "-".join(artifact.checksum(adapter / name) for name in (lora.CONFIG, lora.WEIGHTS))


def messages(prompt: str) -> list[dict[str, str]]:
    """One question as a dialogue. Raises ValueError for an empty one."""
    check_type("prompt", str, prompt)
    check("prompt", prompt, bool(prompt.strip()), "a text that is not empty")
    return [{"role": "user", "content": prompt}]


def with_system(dialogue: Messages, system: str | None) -> Messages:
    """The dialogue with a system message before it, unless it begins with its own."""
    if system is None or dialogue[0]["role"] == "system":
        return dialogue
    return [{"role": "system", "content": system}, *dialogue]


def encode(model: OpenModel, dialogue: Messages, options: AskOptions) -> list[int]:
    """Token ids of a dialogue up to its answer.

    Raises ValueError where the context has no room for the answer.
    """
    ids = encode_chat(model.tokenizer, dialogue)
    longest = model.network.config.max_sequence_length
    room, length = longest - len(ids), options.gen_length or 1
    check("prompt", f"{len(ids)} tokens", room > 0, f"fewer than {longest} (the context)")
    allowed = f"up to {room} beside a prompt of {len(ids)} tokens (the context is {longest})"
    check("gen_length", options.gen_length, length <= room, allowed)
    return ids


def ask(
    model: OpenModel,
    prompt: list[int],
    options: AskOptions,
    *,
    number: int = 0,
    watch: Watch | None = None,
) -> Asked:
    """The answer to an encoded dialogue; `watch` sees its canvas after every pass.

    `number` tells the draws of a dialogue's turns apart. Raises what `model.sampler.stream` raises.
    """
    started = time.perf_counter()
    length, passes = _length(model, prompt, options)
    generation = None
    for generation in sampler.stream(
        model.network,
        torch.tensor([prompt], device=model.network.device),
        gen_length=length,
        steps=options.steps,
        generator=torch.Generator(model.network.device).manual_seed(options.seed + number),
        **_sampling(model, options),
    ):
        tokens = generation.tokens_BL[0, len(prompt) :].tolist()
        if watch is not None:
            watch(tokens, generation.forward_passes)
    assert generation is not None, "a canvas of a token or more takes a pass"
    answer = _answer(model, tokens, options)
    return Asked([answer], passes + generation.forward_passes, time.perf_counter() - started)


def ask_all(
    model: OpenModel,
    prompts: Sequence[list[int]],
    options: AskOptions,
    *,
    number: int = 0,
    batch_size: int,
) -> Asked:
    """The answers to encoded dialogues, of which `batch_size` are sampled at a time.

    Each is the answer that its prompt gets alone, up to rounding: `number` is the first prompt's
    place in its file, and each has draws of its own. Raises what `batching.generate_all` raises.
    """
    started = time.perf_counter()
    lengths = [_length(model, prompt, options) for prompt in prompts]
    requests = [
        batching.Request(prompt, length, options.steps, options.seed + number + place)
        for place, (prompt, (length, _)) in enumerate(zip(prompts, lengths, strict=True))
    ]
    passes = sum(passes for _, passes in lengths)
    answers: dict[int, Answer] = {}
    for each in batching.generate_all(
        model.network, requests, batch_size=batch_size, **_sampling(model, options)
    ):
        answers[each.index] = _answer(model, each.tokens, options)
        passes += each.passes
    seconds = time.perf_counter() - started
    return Asked([answers[place] for place in range(len(prompts))], passes, seconds)


def _length(model: OpenModel, prompt: list[int], options: AskOptions) -> tuple[int, int]:
    """The length of an answer's canvas, and the passes that finding it took."""
    if options.gen_length is not None:
        return options.gen_length, 0
    eos = model.tokenizer.eos_token_id
    assert isinstance(eos, int), "check_fit has seen it"
    return canvas.fit(model.network, prompt, eos)


def _sampling(model: OpenModel, options: AskOptions) -> dict:
    """The sampler's options that all answers share, its tokens as ids."""
    plain = (
        *("block_length", "temperature", "cfg_scale", "remasking"),
        *("cache", "threshold", "factor", "repetition_penalty"),
    )
    tokens = named_tokens(model, options)
    return {name: getattr(options, name) for name in plain} | tokens | {"stop_tokens": model.stops}


def named_tokens(model: OpenModel, options: AskOptions) -> dict[str, list[int]]:
    """The ids of forbidden and deferred tokens, under the sampler's names.

    Raises ValueError for a token that the vocabulary lacks.
    """
    return {
        name: _token_ids(model.tokenizer, name, getattr(options, name))
        for name in ("forbidden_tokens", "deferred_tokens")
    }


def _token_ids(tokenizer: PreTrainedTokenizerBase, name: str, tokens: Sequence[str]) -> list[int]:
    vocabulary = tokenizer.get_vocab()
    for token in tokens:
        check(name, token, token in vocabulary, "tokens of the vocabulary")
    return [vocabulary[token] for token in tokens]


def _answer(model: OpenModel, tokens: list[int], options: AskOptions) -> Answer:
    """The text up to the first stop token and the first stop string."""
    own = sampler.before_stop(tokens, model.stops)
    (text,) = model.tokenizer.batch_decode([own])
    for stop in options.stop:
        text = text.split(stop)[0]
    return Answer(text, len(own))
