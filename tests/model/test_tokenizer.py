"""What a text spells is text; ordinary text has the ids that the chat template gives it."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from model import tokenizer

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
    backend.add_special_tokens([tokenizer.BOS, tokenizer.EOS, *OWN])
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
    backend.add_special_tokens([tokenizer.BOS, tokenizer.EOS, *OWN])
    return saved(path, backend)


def of_sentencepiece(path):
    """Unigram whose first segment alone begins with a blank, and whose vocabulary spells <s>."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), (tokenizer.EOS, 0.0), ("▁", -2.0), ("▁What", -3.0)]
    letters = sorted(set(f"{TEXT}{tokenizer.MASK}{tokenizer.EOT}assistantsystemuser[CLS]3"))
    backend = Tokenizer(models.Unigram([*pieces, *((one, -4.0) for one in letters)], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    backend.add_special_tokens(["<s>", tokenizer.EOS, *OWN])
    return saved(path, backend, bos="<s>")


def of_words(path):
    """A vocabulary of whole words, control tokens among them."""
    names = [tokenizer.BOS, tokenizer.EOS, tokenizer.EOT, *OWN]
    vocabulary = {word: id for id, word in enumerate(["?", *names, "a", "b", "user", "assistant"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens(names)
    return saved(path, backend)


def trained(path):
    """What a new model gets."""
    tokenizer.train([TEXT] * 3, vocabulary=320).save_pretrained(path)
    return tokenizer.load(path)


def saved(path, backend, bos=tokenizer.BOS):
    own = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=bos, eos_token=tokenizer.EOS, pad_token=tokenizer.EOS
    )
    own.save_pretrained(path)
    return tokenizer.load(path)


BYTES = (trained, of_llada, across_borders)
MAKERS = (*BYTES, of_sentencepiece, of_words)


def control(words):
    """Every token that is special, or named like one, by its text."""
    named = words.added_tokens_decoder.items()
    return {t.content: id for id, t in named if t.special or t.content in ("<role>", "</role>")}


@pytest.mark.parametrize("make", MAKERS)
def test_ordinary_text_has_the_ids_of_the_template(make, tmp_path):
    words = make(tmp_path)
    thought = tokenizer.reasoned("1 and 1\n", "two")
    messages = [
        {"role": "system", "content": " Be brief. "},
        {"role": "user", "content": TEXT},
        {"role": "assistant", "content": f"{thought}\n"},
        {"role": "user", "content": "  \n"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "What    is\n\n3? Schrödinger"},
    ]
    for count in range(1, len(messages) + 1):
        text = words.apply_chat_template(
            messages[:count], tokenize=False, add_generation_prompt=True
        )
        wanted = words.encode(text, add_special_tokens=False)
        assert tokenizer.chat(words, messages[:count]) == wanted
    for text in (thought, f" {thought} ", "two", TEXT, "", "1\n\n2", "Schrödinger    a"):
        wanted = words.encode(text.strip() + tokenizer.EOT, add_special_tokens=False)
        assert tokenizer.answer(words, text) == wanted
    for text in (TEXT, "", " two ", "What    is\n\n3? Schrödinger"):
        assert tokenizer.encode(words, [text]) == [words.encode(text, add_special_tokens=False)]


@pytest.mark.parametrize("make", MAKERS)
def test_no_text_is_a_control_token(make, tmp_path):
    """Every name, alone and in a sentence, in every role, in the role itself, and in a document."""
    words = make(tmp_path)
    ids = control(words)
    assert {tokenizer.EOT, tokenizer.MASK, tokenizer.EOS, *tokenizer.REASONING} <= {*ids}
    empty = [{"role": role, "content": ""} for role in ("system", "user", "assistant", "user")]
    skeleton = [id for id in tokenizer.chat(words, empty) if id in ids.values()]
    for name in ids:
        for text in (name, f"a {name} b", name * 2, f"a{name}", f"{name[:-1]}{name}"):
            (found,) = tokenizer.encode(words, [text])
            assert not {*ids.values()} & {*found}
            messages = [{**message, "content": text} for message in empty[:2] + empty[3:]]
            found = tokenizer.chat(words, [*messages, {"role": text, "content": text}])
            placed = [id for id in found if id in ids.values()]
            assert placed == skeleton
            if name not in tokenizer.REASONING:
                found = tokenizer.answer(words, text)
                assert [id for id in found if id in ids.values()] == [ids[tokenizer.EOT]]


@pytest.mark.parametrize("make", BYTES)
def test_what_is_spelt_comes_back(make, tmp_path):
    words = make(tmp_path)
    text = f"an {tokenizer.EOT} [gMASK]<role> and {tokenizer.MASK}{tokenizer.BEGIN_THOUGHT}"
    prompt = tokenizer.chat(words, [{"role": "user", "content": text}])
    answer = tokenizer.answer(words, tokenizer.reasoned(text.partition("<|beg")[0], "two"))
    written = tokenizer.encode(words, [text, "a"])[0]
    assert words.decode(written) == text and text in words.decode(prompt)
    assert words.decode(answer).count(tokenizer.EOT) == 2 and answer.count(answer[-1]) == 1
    if make is not across_borders:  # whose vocabulary spells it as one
        wanted = words.encode("a<|eot_id|>", add_special_tokens=False, split_special_tokens=True)
        assert tokenizer.encode(words, ["a<|eot_id|>"]) == [wanted]


@pytest.mark.parametrize("make", MAKERS)
def test_delimiters_are_tokens_in_answers_alone(make, tmp_path):
    words = make(tmp_path)
    ids = words.convert_tokens_to_ids(list(tokenizer.REASONING))
    told = tokenizer.reasoned("a", "b")
    answer = tokenizer.answer(words, told)
    assert [id for id in answer if id in ids] == ids
    asked = [{"role": role, "content": told} for role in ("system", "user")]
    assert not {*ids} & {*tokenizer.chat(words, asked)}
    talk = [*asked, {"role": "assistant", "content": told}, {"role": "user", "content": told}]
    assert [id for id in tokenizer.chat(words, talk) if id in ids] == ids


def test_encoding_changes_no_tokenizer_and_is_safe_in_threads(tmp_path):
    """The tokenizer's own `encode` goes on as before, and threads that mix both agree."""
    words = of_llada(tmp_path)
    size, texts = len(words), [f"{number} {tokenizer.EOT}<role>" for number in range(200)]
    wanted = [tokenizer.encode(words, [text])[0] for text in texts]
    with ThreadPoolExecutor(4) as pool:
        ours = pool.map(lambda text: tokenizer.encode(words, [text])[0], texts)
        theirs = list(pool.map(lambda text: words.encode(text)[-2:], texts))
        assert list(ours) == wanted == tokenizer.encode(words, texts)
    assert len(words) == size
    assert theirs == [words.convert_tokens_to_ids([tokenizer.EOT, "<role>"])] * len(texts)


def test_a_vocabulary_that_answers_whole_words(tmp_path):
    """BPE may look a whole piece up before it merges anything (ignore_merges)."""
    words = of_llada(tmp_path, ignore_merges=True)
    ids = control(words)
    assert not {*ids.values()} & {*tokenizer.encode(words, [" ".join(ids)])[0]}
