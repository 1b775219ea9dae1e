"""Likelihood requests of lm_eval, through the evaluation's own `LM`."""

import pytest
import torch
from lm_eval.api.instance import Instance

from components.evaluate.config import EvaluateConfig
from components.evaluate.harness import DiffusionLM
from components.evaluate.requests import Query
from model import diffusion, likelihood
from model.tokenizer import train_tokenizer
from tests.model.test_llada import small

TEXTS = [("Two and two is", " four"), ("", "No context"), ("Two and two is", " a number")]


def asked(seed=3):
    tokenizer = train_tokenizer([" ".join(pair) for pair in TEXTS], vocabulary=290)
    model = small(mask_token_id=tokenizer.mask_token_id, eos_token_id=tokenizer.eos_token_id)
    return DiffusionLM(model, tokenizer, EvaluateConfig(seed=seed))


def alone(lm, context, text):
    prompt, answer = (
        torch.tensor(lm.tokenizer.encode(part, add_special_tokens=False), dtype=torch.long)
        for part in (context, text)
    )
    query = Query("likelihood", "", tuple(prompt.tolist()), tuple(answer.tolist()))
    draw = likelihood.request_generator(lm.config.seed, query.number)
    size = lm.config.likelihood_batch
    return diffusion.log_likelihood(lm.model, prompt, answer, batch_size=size, generator=draw)


def test_answers_get_what_they_get_alone():
    lm = asked()
    requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(TEXTS)]
    found = lm.loglikelihood(requests)
    for pair, (value, greedy) in zip(TEXTS, found, strict=True):
        assert value == pytest.approx(alone(lm, *pair), rel=1e-4)
        assert greedy is False


def test_whole_texts_have_no_prompt():
    lm = asked()
    requests = [Instance("loglikelihood_rolling", {}, (pair[1],), 0) for pair in TEXTS]
    found = lm.loglikelihood_rolling(requests)
    for index, (_, text) in enumerate(TEXTS):
        assert found[index] == pytest.approx(alone(lm, "", text), rel=1e-4)


def test_an_empty_answer_is_refused():
    with pytest.raises(ValueError, match="answer is empty"):
        asked().loglikelihood([Instance("loglikelihood", {}, ("a context", ""), 0)])
