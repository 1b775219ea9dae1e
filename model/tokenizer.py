"""Tokenizers with LLaDA's special tokens and chat template, as ordinary Hugging Face directories.

`train` makes one from texts; `load` opens one and adds the tokens that a base checkpoint's
tokenizer lacks, which take spare embedding rows: nothing is ever resized. No model weights here.
"""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

BOS, EOS, MASK = "<|startoftext|>", "<|endoftext|>", "<|mdm_mask|>"
START_HEADER, END_HEADER, EOT = "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
BEGIN_THOUGHT, END_THOUGHT = "<|begin_of_thought|>", "<|end_of_thought|>"
BEGIN_SOLUTION, END_SOLUTION = "<|begin_of_solution|>", "<|end_of_solution|>"
CHAT = (START_HEADER, END_HEADER, EOT)
REASONING = (BEGIN_THOUGHT, END_THOUGHT, BEGIN_SOLUTION, END_SOLUTION)
NEW = "new_tokens"  # the entry of tokenizer_config.json that names them

# Upstream's template always ends with an assistant header; this one does so only when asked.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    f"{START_HEADER}{{{{ message['role'] }}}}{END_HEADER}\n\n"
    f"{{{{ message['content'] | trim }}}}{EOT}{{% endfor %}}"
    f"{{% if add_generation_prompt %}}{START_HEADER}assistant{END_HEADER}\n\n{{% endif %}}"
)


def train(texts: Iterable[str], *, vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of `vocabulary` tokens in which every digit stands alone."""
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


def load(path: Path | str) -> PreTrainedTokenizerBase:
    """The tokenizer at `path` with the mask, chat and reasoning tokens and the chat template.

    It remembers which of them it lacked, also when it is saved and loaded again.
    """
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
    known = tokenizer.get_vocab()
    missing = [token for token in (MASK, *CHAT, *REASONING) if token not in known]
    tokenizer.add_tokens(missing, special_tokens=True)
    tokenizer.init_kwargs[NEW] = [*tokenizer.init_kwargs.get(NEW, ()), *missing]
    tokenizer.mask_token, tokenizer.pad_token = MASK, tokenizer.eos_token
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.padding_side = "left"
    return tokenizer


def new_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids of the special tokens that the base's own tokenizer lacked: their rows are untrained."""
    found = tokenizer.convert_tokens_to_ids(list(tokenizer.init_kwargs[NEW]))
    assert isinstance(found, list)
    return found


def chat(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> list[int]:
    """Token ids of a dialogue up to and including the header of the answer to come."""
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer.encode(text, add_special_tokens=False)


def answer(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of an assistant's answer, closed by the end-of-turn token."""
    return tokenizer.encode(text.strip() + EOT, add_special_tokens=False)


def reasoned(thought: str, solution: str) -> str:
    """The text of an answer with its thought and solution delimiters."""
    return f"{BEGIN_THOUGHT}{thought}{END_THOUGHT}{BEGIN_SOLUTION}{solution}{END_SOLUTION}"
