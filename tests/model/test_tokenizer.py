"""What a text spells is text; ordinary text has the ids that the chat template gives it."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from model.tokenizer import (
    BEGIN_THOUGHT,
    BOS,
    EOS,
    EOT,
    MASK,
    REASONING,
    encode,
    encode_answer,
    encode_chat,
    load_tokenizer,
    reasoned,
    stop_tokens,
    train_tokenizer,
)

TEXT = "What is 1 + 1? Say two.\n\nübrigens 한 [x] <y> a < b    def f():\n\treturn 0\n"
OWN = ["[CLS]", "[gMASK]", "<|reserved_token_0|>"]
OWN_ORDINARY = [("<role>", False), ("</role>", False), ("    ", False), ("Schrödinger", False)]
SPLIT = r"'s|'t|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def of_llada(path, **model):
    """Byte-level BPE behind a regular expression, with control tokens of its own and no chat's."""
    backend = Tokenizer(models.BPE(**model))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([TEXT] * 3, trainer)
    backend.add_special_tokens([BOS, EOS, *OWN])
    backend.add_tokens([AddedToken(name, special=special) for name, special in OWN_ORDINARY])
    return saved(path, backend)


def across_borders(path):
    """BPE over whole segments, so that the template's line breaks merge with what follows."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(["\n\nWhat is", "\n\ntwo", "\n\nWhat", "<|eot_id|>"] * 9, trainer)
    backend.add_special_tokens([BOS, EOS, *OWN])
    return saved(path, backend)


def of_sentencepiece(path):
    """Unigram whose first segment alone begins with a blank, and whose vocabulary spells <s>."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), (EOS, 0.0), ("▁", -2.0), ("▁What", -3.0)]
    letters = sorted(set(f"{TEXT}{MASK}{EOT}assistantsystemuser[CLS]3"))
    backend = Tokenizer(models.Unigram([*pieces, *((one, -4.0) for one in letters)], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    backend.add_special_tokens(["<s>", EOS, *OWN])
    return saved(path, backend, bos="<s>")


def of_words(path):
    """A vocabulary of whole words, control tokens among them."""
    names = [BOS, EOS, EOT, *OWN]
    vocabulary = {word: id for id, word in enumerate(["?", *names, "a", "b", "user", "assistant"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(names)
    return saved(path, backend)


def trained(path):
    """What a new model gets."""
    train_tokenizer([TEXT] * 3, vocabulary=320).save_pretrained(path)
    return load_tokenizer(path)


def saved(path, backend, bos=BOS):
    own = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=bos, eos_token=EOS, pad_token=EOS
    )
    own.save_pretrained(path)
    return load_tokenizer(path)


BYTES = (trained, of_llada, across_borders)
MAKERS = (*BYTES, of_sentencepiece, of_words)


def control(tokenizer):
    """Every token that is special, or named like one, by its text."""
    named = tokenizer.added_tokens_decoder.items()
    return {t.content: id for id, t in named if t.special or t.content in ("<role>", "</role>")}


@pytest.mark.parametrize("make", MAKERS)
def test_ordinary_text_has_the_ids_of_the_template(make, tmp_path):
    tokenizer = make(tmp_path)
    thought = reasoned("1 and 1\n", "two")
    messages = [
        {"role": "system", "content": " Be brief. "},
        {"role": "user", "content": TEXT},
        {"role": "assistant", "content": f"{thought}\n"},
        {"role": "user", "content": "  \n"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "What    is\n\n3? Schrödinger"},
    ]
    for count in range(1, len(messages) + 1):
        text = tokenizer.apply_chat_template(
            messages[:count], tokenize=False, add_generation_prompt=True
        )
        wanted = tokenizer.encode(text, add_special_tokens=False)
        assert encode_chat(tokenizer, messages[:count]) == wanted
    for text in (thought, f" {thought} ", "two", TEXT, "", "1\n\n2", "Schrödinger    a"):
        wanted = tokenizer.encode(text.strip() + EOT, add_special_tokens=False)
        assert encode_answer(tokenizer, text) == wanted
    for text in (TEXT, "", " two ", "What    is\n\n3? Schrödinger"):
        assert encode(tokenizer, [text]) == [tokenizer.encode(text, add_special_tokens=False)]


@pytest.mark.parametrize("make", MAKERS)
def test_no_text_is_a_control_token(make, tmp_path):
    """Every name, alone and in a sentence, in every role, in the role itself, and in a document."""
    tokenizer = make(tmp_path)
    ids = control(tokenizer)
    assert {EOT, MASK, EOS, *REASONING} <= {*ids}
    empty = [{"role": role, "content": ""} for role in ("system", "user", "assistant", "user")]
    skeleton = [id for id in encode_chat(tokenizer, empty) if id in ids.values()]
    for name in ids:
        for text in (name, f"a {name} b", name * 2, f"a{name}", f"{name[:-1]}{name}"):
            (found,) = encode(tokenizer, [text])
            assert not {*ids.values()} & {*found}
            messages = [{**message, "content": text} for message in empty[:2] + empty[3:]]
            found = encode_chat(tokenizer, [*messages, {"role": text, "content": text}])
            placed = [id for id in found if id in ids.values()]
            assert placed == skeleton
            if name not in REASONING:
                found = encode_answer(tokenizer, text)
                assert [id for id in found if id in ids.values()] == [ids[EOT]]


@pytest.mark.parametrize("make", MAKERS)
def test_an_answer_ends_at_the_end_of_the_text_or_of_the_turn(make, tmp_path):
    tokenizer = make(tmp_path)
    assert tokenizer.convert_ids_to_tokens(stop_tokens(tokenizer)) == [EOS, EOT]
    assert encode_answer(tokenizer, "two")[-1] in stop_tokens(tokenizer)


@pytest.mark.parametrize("make", BYTES)
def test_what_is_spelt_comes_back(make, tmp_path):
    tokenizer = make(tmp_path)
    text = f"an {EOT} [gMASK]<role> and {MASK}{BEGIN_THOUGHT}"
    prompt = encode_chat(tokenizer, [{"role": "user", "content": text}])
    answer = encode_answer(tokenizer, reasoned(text.partition("<|beg")[0], "two"))
    written = encode(tokenizer, [text, "a"])[0]
    assert tokenizer.decode(written) == text and text in tokenizer.decode(prompt)
    assert tokenizer.decode(answer).count(EOT) == 2 and answer.count(answer[-1]) == 1
    if make is not across_borders:  # whose vocabulary spells it as one
        wanted = tokenizer.encode(
            "a<|eot_id|>", add_special_tokens=False, split_special_tokens=True
        )
        assert encode(tokenizer, ["a<|eot_id|>"]) == [wanted]


@pytest.mark.parametrize("make", MAKERS)
def test_delimiters_are_tokens_in_answers_alone(make, tmp_path):
    tokenizer = make(tmp_path)
    ids = tokenizer.convert_tokens_to_ids(list(REASONING))
    told = reasoned("a", "b")
    answer = encode_answer(tokenizer, told)
    assert [id for id in answer if id in ids] == ids
    asked = [{"role": role, "content": told} for role in ("system", "user")]
    assert not {*ids} & {*encode_chat(tokenizer, asked)}
    talk = [*asked, {"role": "assistant", "content": told}, {"role": "user", "content": told}]
    assert [id for id in encode_chat(tokenizer, talk) if id in ids] == ids


def test_encoding_changes_no_tokenizer_and_is_safe_in_threads(tmp_path):
    """The tokenizer's own `encode` goes on as before, and threads that mix both agree."""
    tokenizer = of_llada(tmp_path)
    size, texts = len(tokenizer), [f"{number} {EOT}<role>" for number in range(200)]
    wanted = [encode(tokenizer, [text])[0] for text in texts]
    with ThreadPoolExecutor(4) as pool:
        ours = pool.map(lambda text: encode(tokenizer, [text])[0], texts)
        theirs = list(pool.map(lambda text: tokenizer.encode(text)[-2:], texts))
        assert list(ours) == wanted == encode(tokenizer, texts)
    assert len(tokenizer) == size
    assert theirs == [tokenizer.convert_tokens_to_ids([EOT, "<role>"])] * len(texts)


def test_a_vocabulary_that_answers_whole_words(tmp_path):
    """BPE may look a whole piece up before it merges anything (ignore_merges)."""
    tokenizer = of_llada(tmp_path, ignore_merges=True)
    ids = control(tokenizer)
    assert not {*ids.values()} & {*encode(tokenizer, [" ".join(ids)])[0]}
