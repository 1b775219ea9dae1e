"""The harness's requests, through the evaluation's own `LM`: one answer does not depend on others.

The model is in fp64, where two confidences are not equal by rounding.
"""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance

from components.evaluate.config import EvaluateConfig
from components.evaluate.harness import DiffusionLM
from components.evaluate.requests import CHAT, encode_pair, readable
from components.evaluate.team import Team
from model import sampler
from model.tokenizer import EOT, encode, encode_chat, load_tokenizer, train_tokenizer
from tests.model.test_llada import small

TEXTS = ("Two and two is four", "A longer question about nothing", "Short", "<|eot_id|> is a text")
CONFIG = {"gen_length": 12, "block_length": 4, "form": "text"}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A model with random weights, and its tokenizer."""
    place = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TEXTS, vocabulary=300).save_pretrained(place)
    tokenizer = load_tokenizer(place)
    ids = {"mask_token_id": tokenizer.mask_token_id, "eos_token_id": tokenizer.eos_token_id}
    model = small(**ids, pad_token_id=tokenizer.pad_token_id, vocab_size=len(tokenizer))
    return model.double(), tokenizer


def lm(parts, **config):
    return DiffusionLM(*parts, EvaluateConfig(**{**CONFIG, **config}))


def generating(*contexts, until=(), task="sums"):
    return [
        Instance(
            "generate_until", {}, (context, {"until": list(until)}), 0, metadata=(task, number, 1)
        )
        for number, context in enumerate(contexts)
    ]


def scoring(*pairs):
    return [
        Instance("loglikelihood", {}, pair, 0, metadata=("choices", number, 1))
        for number, pair in enumerate(pairs)
    ]


CONTEXTS = [f"{text}{' ' * (n % 2)}{n}" for n, text in enumerate(TEXTS * 3)]
SETTINGS = (
    {"cache": "none"},
    {"cache": "prefix"},
    {"cache": "dual", "threshold": 0.05},
    {"factor": 0.9},
    {"cfg_scale": 1.5},
    {"steps": 5, "block_length": 6, "deferred": ("eos", "eot")},
    {"forbidden": ("eos",), "repetition_penalty": 1.3},
    {"temperature": 0.8},
    {"remasking": "random"},
)


@pytest.fixture(scope="module")
def alone(parts):
    """The answer to each context when it is asked by itself, for each of the settings."""
    return [
        {
            context: lm(parts, **options, batch_size=1).generate_until(generating(context))[0]
            for context in CONTEXTS
        }
        for options in SETTINGS
    ]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    number=st.integers(0, len(SETTINGS) - 1),
    order=st.permutations(range(len(CONTEXTS))),
    count=st.integers(1, len(CONTEXTS)),
    batch=st.integers(1, 8),
    tokens=st.none() | st.integers(1, 200),
    processes=st.integers(1, 4),
)
def test_an_answer_depends_on_its_request_alone(
    parts, alone, number, order, count, batch, tokens, processes
):
    """Whatever the batch, the order, the requests beside it and the number of processes."""
    contexts = [CONTEXTS[index] for index in order[:count]]
    asked = lm(parts, **SETTINGS[number], batch_size=batch, batch_tokens=tokens)
    queries = asked.encoder.queries(generating(*contexts))
    values = {}
    for rank in range(processes):
        part = Team(rank, processes).share(queries)
        values |= {query.digest: finished.value for query, finished in asked._each(part)}
    assert [values[query.digest] for query in queries] == [alone[number][c] for c in contexts]


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    order=st.permutations(range(8)),
    processes=st.integers(1, 3),
    rule=st.sampled_from(("likelihood", "confidence")),
)
def test_a_likelihood_depends_on_its_request_alone(parts, order, processes, rule):
    pairs = [(CONTEXTS[n % 3], f" {text}") for n, text in enumerate(TEXTS * 2)]
    config = {"choices": rule, "check_greedy": True, "samples": 16}
    alone = [lm(parts, **config).loglikelihood(scoring(pair))[0] for pair in pairs]
    asked = lm(parts, **config)
    queries = asked.encoder.queries(scoring(*(pairs[index] for index in order)))
    values = {}
    for rank in range(processes):
        part = Team(rank, processes).share(queries)
        values |= {query.digest: finished.value for query, finished in asked._each(part)}
    for query, index in zip(queries, order, strict=True):
        score, greedy = values[query.digest]
        assert score == pytest.approx(alone[index][0], rel=1e-9) and greedy == alone[index][1]


def test_the_shares_are_all_requests_once(parts):
    queries = lm(parts).encoder.queries(generating(*CONTEXTS))
    shares = [Team(rank, 5).share(queries) for rank in range(5)]
    names = sorted(query.name for share in shares for query in share)
    assert names == sorted(query.name for query in queries)


def test_an_answer_is_the_samplers(parts):
    model, tokenizer = parts
    config = {"cache": "dual", "threshold": 0.05, "cfg_scale": 0.5}
    asked = lm(parts, **config)
    (answer,) = asked.generate_until(generating(TEXTS[0]))
    (prompt,) = encode(tokenizer, [TEXTS[0]])
    result = sampler.generate(model, torch.tensor([prompt]), **asked.options())
    tokens = sampler.before_stop(result.tokens_BL[0, len(prompt) :].tolist(), asked.stops)
    assert answer == tokenizer.decode(tokens, skip_special_tokens=True)
    costs = asked.throughput()
    assert costs["tokens"] == len(tokens) and costs["prompt_tokens"] == len(prompt)
    assert costs["forward_passes"] == result.forward_passes and costs["rows_per_pass"] == 1.0


def test_a_stop_text_ends_an_answer_and_its_passes(parts):
    whole = lm(parts).generate_until(generating(TEXTS[0]))[0]
    assert len(whole) > 2
    stop = whole[1:3]
    asked = lm(parts)
    assert asked.generate_until(generating(TEXTS[0], until=["never there", stop])) == [
        whole.split(stop)[0]
    ]
    own = lm(parts, stop=(stop,))
    assert own.generate_until(generating(TEXTS[0])) == [whole.split(stop)[0]]
    assert asked.passes == own.passes < 12 and 1 <= asked.tokens < 12


def test_equal_requests_are_asked_once_and_draws_apart(parts):
    greedy = lm(parts)
    assert len(set(greedy.generate_until(generating(*[TEXTS[0]] * 3)))) == 1
    assert greedy.answers == 1
    drawn = lm(parts, temperature=1.5)
    assert len(set(drawn.generate_until(generating(*[TEXTS[0]] * 6)))) > 1
    assert drawn.answers == 6


LONG = "Two and two is four " * 40


def test_what_does_not_fit_is_refused_by_name_before_anything_is_asked(parts, monkeypatch):
    asked = lm(parts)
    monkeypatch.setattr(asked, "_ask", lambda queries: pytest.fail("something was asked"))
    words = r"sums, problem 1: prompt of \d+ tokens \+ gen_length=12, allowed: at most 128"
    with pytest.raises(ValueError, match=words):
        asked.generate_until(generating(TEXTS[0], LONG))
    words = r"choices, problem 1: prompt of \d+ tokens \+ text of \d+, allowed: at most 128"
    with pytest.raises(ValueError, match=words):
        asked.loglikelihood(scoring((TEXTS[0], "x"), (LONG, " yes")))
    with pytest.raises(ValueError, match=r"a request, problem None: text of \d+, allowed: at"):
        asked.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (LONG,), 0)])
    with pytest.raises(ValueError, match=r"sums, problem 0: the prompt is empty"):
        asked.generate_until(generating(""))
    with pytest.raises(ValueError, match=r"sums, problem 1"):
        asked.check(generating(TEXTS[0], LONG))


def test_a_prompt_is_cut_from_the_left_where_the_protocol_says_so(parts):
    _, tokenizer = parts
    asked = lm(parts, too_long="truncate")
    (whole,) = encode(tokenizer, [LONG])
    first, second = asked.encoder.queries(generating(LONG, TEXTS[0]))
    assert list(first.prompt) == whole[-(128 - 12) :] and asked.encoder.truncated == 1
    assert list(second.prompt) == encode(tokenizer, [TEXTS[0]])[0]
    (scored,) = asked.encoder.queries(scoring((LONG, " yes")))
    assert (
        scored.size == 128
        and list(scored.text) == encode(tokenizer, [LONG[:-1] + "  yes"])[0][-len(scored.text) :]
    )
    assert asked.generate_until(generating(LONG)) and asked.throughput()["truncated"] == 3
    with pytest.raises(ValueError, match="text of"):
        asked.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (LONG,), 0)])
    with pytest.raises(ValueError, match="gen_length=128"):
        lm(parts, gen_length=128, too_long="truncate").generate_until(generating("x"))


def test_spaces_move_from_the_context_to_the_text(parts):
    _, tokenizer = parts
    (whole,) = encode(tokenizer, ["Two and two is  four"])
    context, text = encode_pair(tokenizer, "Two and two is ", " four")
    assert context == encode(tokenizer, ["Two and two is"])[0] and context + text == whole
    assert tokenizer.decode(text) == "  four"


def test_a_text_that_merges_with_its_context_keeps_a_token(parts):
    _, tokenizer = parts
    word = next(token for token in encode(tokenizer, ["question"])[0])
    name = tokenizer.decode([word])
    assert len(name) > 1
    context, text = encode_pair(tokenizer, name[:-1], name[-1])
    assert (context, text) == ([], [word])


def test_without_a_context_all_is_the_text(parts):
    _, tokenizer = parts
    assert encode_pair(tokenizer, "", "Short") == ([], encode(tokenizer, ["Short"])[0])
    assert encode_pair(tokenizer, "  ", "Short") == ([], encode(tokenizer, ["  Short"])[0])


def test_a_chat_is_the_template_and_its_texts_stay_texts(parts):
    _, tokenizer = parts
    asked = lm(parts, form="chat")
    messages = [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": f"What is {EOT} and {CHAT[:5]}?"},
    ]
    context = asked.apply_chat_template(messages)
    (query,) = asked.encoder.queries(generating(context))
    assert list(query.prompt) == encode_chat(tokenizer, messages)
    eot = tokenizer.convert_tokens_to_ids(EOT)
    assert list(query.prompt).count(eot) == 2
    assert readable(context) == f"system: Be brief\n\nuser: What is {EOT} and {CHAT[:5]}?"
    opened = asked.apply_chat_template([*messages, {"role": "assistant", "content": "The answer"}])
    (query,) = asked.encoder.queries(generating(opened))
    assert list(query.prompt) == encode_chat(tokenizer, messages, "The answer")
    prompt, text = encode_pair(tokenizer, context, "four")
    assert (prompt, text) == (encode_chat(tokenizer, messages), encode(tokenizer, ["four"])[0])


def test_a_problem_of_ours_that_does_not_fit_has_an_empty_answer(parts):
    problem = {"prompt": LONG, "answer": "4", "verifier": "exact"}
    request = Instance("generate_until", problem, (LONG, {"until": []}), 0, ("test", 0, 1))
    short = {**problem, "prompt": TEXTS[0]}
    other = Instance("generate_until", short, (TEXTS[0], {"until": []}), 0, ("test", 1, 1))
    asked = lm(parts)
    answers = asked.generate_until([request, other])
    assert answers[0] == "" and answers[1] != "" and asked.answers == 1
