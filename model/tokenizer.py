"""Tokenizers with LLaDA's special tokens and chat template, as ordinary Hugging Face directories.

`train_tokenizer` trains a tokenizer on texts. `load_tokenizer` opens one and adds the special
tokens that a base checkpoint's tokenizer lacks; they take spare rows of the embedding, which is
never resized.

Only this module inserts control tokens. A text that spells one (`<|eot_id|>`, `[gMASK]`) is encoded
as ordinary text; in answers alone, the delimiters of thought and solution become their tokens.
Decoding cannot tell the two apart: an answer in which a model spells a delimiter letter by letter
reads like an answer with the token.
Shapes: B prompts, P tokens of the longest prompt.
"""

import functools
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

BOS, EOS, MASK = "<|startoftext|>", "<|endoftext|>", "<|mdm_mask|>"
START_HEADER, END_HEADER, EOT = "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
BEGIN_THOUGHT, END_THOUGHT = "<|begin_of_thought|>", "<|end_of_thought|>"
BEGIN_SOLUTION, END_SOLUTION = "<|begin_of_solution|>", "<|end_of_solution|>"
CHAT = (START_HEADER, END_HEADER, EOT)
REASONING = (BEGIN_THOUGHT, END_THOUGHT, BEGIN_SOLUTION, END_SOLUTION)
NEW = "new_tokens"  # the entry of tokenizer_config.json that lists the tokens added here
DELIMITER = re.compile(f"({'|'.join(map(re.escape, REASONING))})")
# PLACE stands for a control token while a text is encoded; CUT separates two pieces of a word and
# leaves no token. Every process draws its own, so that no text can contain them on purpose. The
# resulting ids do not depend on the draw.
PLACE, CUT = (f"<|{secrets.token_hex(16)}|>" for _ in range(2))

# Upstream's template always ends with an assistant header; ours only with add_generation_prompt.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    f"{START_HEADER}{{{{ message['role'] }}}}{END_HEADER}\n\n"
    f"{{{{ message['content'] | trim }}}}{EOT}{{% endfor %}}"
    f"{{% if add_generation_prompt %}}{START_HEADER}assistant{END_HEADER}\n\n{{% endif %}}"
)


def train_tokenizer(texts: Iterable[str], *, vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of `vocabulary` tokens in which every digit is its own token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = [BOS, EOS, MASK, *CHAT, *REASONING]
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=EOS,
        mask_token=MASK,
        additional_special_tokens=[*CHAT, *REASONING],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
    )


def load_tokenizer(path: Path | str) -> PreTrainedTokenizerBase:
    """The tokenizer at `path` with the mask, chat and reasoning tokens and the chat template.

    The mask is the tokenizer's own where it names one. The tokenizer records which of them it
    lacked (`new_token_ids`), also across saving and loading.
    """
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
    known, mask = tokenizer.get_vocab(), tokenizer.mask_token or MASK
    ours = [mask, *CHAT, *REASONING]
    missing = [token for token in ours if token not in known]
    tokenizer.add_tokens(
        ours, special_tokens=True
    )  # a token that exists may have been an ordinary word
    tokenizer.init_kwargs[NEW] = [*tokenizer.init_kwargs.get(NEW, ()), *missing]
    tokenizer.mask_token, tokenizer.pad_token = mask, tokenizer.eos_token
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.padding_side = "left"
    return tokenizer


def new_token_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the special tokens that the base's own tokenizer lacked: their rows are untrained."""
    return _ids_of(tokenizer, tokenizer.init_kwargs[NEW])


def stop_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the tokens that end an answer: the end of the text and the end of the turn."""
    return [tokenizer.eos_token_id, *_ids_of(tokenizer, (EOT,))]


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts, none of them a control token, whatever the texts spell."""
    return _plain(tokenizer).ids(texts)


def encode_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, str]],
    opening: str = "",
) -> list[int]:
    """Token ids of a dialogue, up to and including the header of the answer to come.

    Equal to the tokenized chat template, except that control tokens spelt in a message stay text.
    The answer starts with the text `opening`, if any.
    """
    start, end, eot = _ids_of(tokenizer, CHAT)
    parts: list[str | int] = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    for message in messages:
        content = message["content"].strip()
        is_answer = message["role"] == "assistant"
        body = _delimited(tokenizer, content) if is_answer else [content]
        parts += [start, message["role"], end, "\n\n", *body, eot]
    return _placed(tokenizer, [*parts, start, "assistant", end, f"\n\n{opening}"])


def encode_answer(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of an assistant's answer: delimiters as tokens, and the end of the turn."""
    (eot,) = _ids_of(tokenizer, (EOT,))
    return _placed(tokenizer, [*_delimited(tokenizer, text.strip()), eot])


def reasoned(thought: str, solution: str) -> str:
    """The text of an answer with its thought and solution delimiters."""
    return f"{BEGIN_THOUGHT}{thought}{END_THOUGHT}{BEGIN_SOLUTION}{solution}{END_SOLUTION}"


@dataclass(frozen=True)
class _Plain:
    """A copy of a tokenizer's backend that recognizes no control token, only PLACE and CUT."""

    backend: Tokenizer
    place: int
    """The id of PLACE."""
    cut: int
    """The id of CUT."""
    whole: re.Pattern[str] | None
    """Control tokens that the vocabulary itself also holds as words: encoded in two pieces."""

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, with `place` wherever it holds PLACE."""
        if self.whole is None:
            return self._encode(texts)
        pieces = [self.whole.sub(lambda match: CUT.join(_halves(match[0])), text) for text in texts]
        return [[token for token in ids if token != self.cut] for ids in self._encode(pieces)]

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        if len(texts) == 1:  # without the thread pool of a batch
            return [self.backend.encode(texts[0], add_special_tokens=False).ids]
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]


@functools.lru_cache(maxsize=4)
def _plain(tokenizer: PreTrainedTokenizerBase) -> _Plain:
    """A copy of the backend. Nothing modifies it, so any thread may encode with it."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.no_truncation()
    backend.no_padding()
    added = backend.get_added_tokens_decoder()
    control = {number: token for number, token in added.items() if _is_control(token)}
    for token in control.values():
        token.special = True
    backend.add_special_tokens(list(control.values()))
    backend.encode_special_tokens = True
    whole = [
        token.content
        for number, token in control.items()
        if number in backend.encode(token.content, add_special_tokens=False).ids
    ]
    pattern = re.compile("|".join(map(re.escape, whole))) if whole else None
    backend.add_tokens([AddedToken(name, normalized=False) for name in (PLACE, CUT)])
    place, cut = backend.encode(PLACE + CUT, add_special_tokens=False).ids
    return _Plain(backend, place, cut, pattern)


def _is_control(token: AddedToken) -> bool:
    """Whether an added token is special or named like one, as <role>; words and spaces are text."""
    name = token.content
    return token.special or name[:1] + name[-1:] in ("<>", "[]")


def _halves(name: str) -> tuple[str, str]:
    return name[:1], name[1:]


def _placed(tokenizer: PreTrainedTokenizerBase, parts: Sequence[str | int]) -> list[int]:
    """Token ids of texts and control tokens in sequence.

    All are encoded in one call: texts encoded one by one differ where a tokenizer treats the first
    segment in its own way, or merges tokens across the template's line breaks.
    """
    plain = _plain(tokenizer)
    text = "".join(PLACE if isinstance(part, int) else part for part in parts)
    control = iter([part for part in parts if isinstance(part, int)])
    (ids,) = plain.ids([text])
    return [next(control) if token == plain.place else token for token in ids]


def _delimited(tokenizer: PreTrainedTokenizerBase, answer: str) -> list[str | int]:
    """An answer as its texts and the ids of the delimiters between them."""
    ids = dict(zip(REASONING, _ids_of(tokenizer, REASONING), strict=True))
    return [ids.get(part, part) for part in DELIMITER.split(answer)]


def _ids_of(tokenizer: PreTrainedTokenizerBase, names: Sequence[str]) -> list[int]:
    ids = tokenizer.convert_tokens_to_ids(list(names))
    assert isinstance(ids, list)
    return ids
