"""GRPO's optimizer steps: micro-batches, minibatches, learning rates; what fails or is refused."""

import dataclasses
import json

import pytest
import torch
from accelerate.state import AcceleratorState

from components import coerce
from components.data import dataset as data
from components.grpo.config import GrpoConfig
from components.grpo.plan import turns
from components.grpo.rollouts import roll_out
from components.grpo.stage import _usable
from components.rewards import named
from components.rewards.sandbox import SandboxError
from model.tokenizer import EOT, load_tokenizer
from tests.components import test_grpo
from tests.components.test_grpo import CONFIG, ESTIMATORS
from tests.conftest import stage


@pytest.fixture(autouse=True, scope="module")
def arithmetic():
    """accelerate holds a process to the arithmetic of its first accelerator."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


def learner(base, dataset, **changes):
    return test_grpo.learner(base, dataset, **{"precision": "fp32", **changes})


def rolled(subject, spread=True):
    """Rollouts of four problems; with `spread` every answer has an advantage of its own."""
    rollouts, _ = roll_out(
        subject.model, subject.tokenizer, subject.problems[:4], subject.config, subject.random
    )
    if spread:
        advantage_B = torch.linspace(-1.1, 1, len(rollouts.tokens_BL))
        rollouts = dataclasses.replace(rollouts, advantage_B=advantage_B)
    return rollouts


def prompts(subject):
    return [problem["prompt"] for problem in subject.problems[:4]]


def trained(subject):
    return {name: p for name, p in subject.model.named_parameters() if p.requires_grad}


def away(subject):
    """An adapter that differs from nothing, so that ratios and divergences do as well."""
    generator = torch.Generator().manual_seed(5)
    for parameter in trained(subject).values():
        with torch.no_grad():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_micro_batch_changes_nothing(taught, downloaded, estimator):
    """Gradients and figures of an optimizer step on answers of unlike lengths, to 1e-6 in fp32."""
    found = []
    for micro in (1, 2, 4, 8, 16):
        subject = learner(
            taught,
            downloaded / "dataset",
            estimator=estimator,
            micro_batch_size=micro,
            minibatch=None,
            gen_length=40,
        )
        rollouts = rolled(subject)
        assert len(set(rollouts.answer_BL.sum(1).tolist())) > 1
        inner = subject._prepare(rollouts)
        away(subject)
        count = len(rollouts.tokens_BL)
        if estimator != "elbo":
            count = int(rollouts.answer_BL.sum())
        parts = [
            subject._backward(rollouts, inner, turn, count) for turn in turns(inner.plan[0], 0, 1)
        ]
        figures = {name: sum(part[name] for part in parts) for name in parts[0]}
        found.append((figures, {name: p.grad for name, p in trained(subject).items()}))
    (figures, gradients), *others = found
    assert figures["kl"] > 0 and any(gradient.any() for gradient in gradients.values())
    for other_figures, other_gradients in others:
        assert other_figures == pytest.approx(figures, abs=1e-6)
        for name, gradient in gradients.items():
            assert (other_gradients[name] - gradient).abs().max() <= 1e-6, name


@pytest.mark.parametrize(
    ("minibatch", "useful", "sizes"),
    [(None, 8, [8]), (16, 8, [8]), (8, 8, [8]), (8, 9, [5, 4]), (4, 6, [3, 3]), (4, 16, [4] * 4)],
)
def test_a_minibatch_is_rollouts_of_a_step_though_groups_were_dropped(
    taught, downloaded, minibatch, useful, sizes
):
    subject = learner(taught, downloaded / "dataset", minibatch=minibatch)
    rollouts = rolled(subject).rows(torch.arange(useful))
    plan = subject._prepare(rollouts).plan
    assert [sum(map(len, step)) for step in plan] == sizes
    subject.update(rollouts, 0, prompts(subject))
    steps = {int(state["step"]) for state in subject.optimizer.state.values()}
    assert steps == {len(sizes) * CONFIG["inner_updates"]}


def test_the_learning_rate_goes_by_the_step_though_groups_were_dropped(taught, downloaded):
    """Of 4 updates a step, 2 are left of step 3: they stand at 8 and 10 of 12."""
    subject = learner(taught, downloaded / "dataset", warmup_steps=2)
    found = subject.update(rolled(subject).rows(torch.arange(4)), 2, prompts(subject))
    factor = subject.schedule.lr_lambdas[0]
    assert found["learning_rate"] == pytest.approx(CONFIG["learning_rate"] * factor(10))


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(taught, downloaded):
    subject = learner(taught, downloaded / "dataset", minibatch=None, inner_updates=1)
    rollouts = rolled(subject)
    broken = dataclasses.replace(rollouts, advantage_B=torch.full((16,), torch.inf))
    before = {name: p.detach().clone() for name, p in trained(subject).items()}
    for number in range(2):
        figures = subject.update(broken, number, prompts(subject))
        assert figures.keys() == {"learning_rate"}
        assert subject.skipped == number + 1
    for name, parameter in trained(subject).items():
        assert torch.equal(parameter, before[name])
    assert subject.update(rollouts, 2, prompts(subject))["gradient_norm"] > 0
    assert subject.skipped == 2 and not subject.bad


def test_three_in_a_row_end_the_run_and_name_their_problems(taught, downloaded):
    """A broken gradient is as bad as a broken loss."""
    subject = learner(taught, downloaded / "dataset")
    next(iter(trained(subject).values())).register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(FloatingPointError, match="3 optimizer steps in a row") as caught:
        subject.update(rolled(subject), 0, prompts(subject))
    assert subject.problems[0]["prompt"][:40] in str(caught.value)


def test_the_first_minibatch_needs_no_old_scores(taught, downloaded):
    """The policy that it updates is the one that would have scored it: the same gradient."""
    found = []
    for is_first in (False, True):
        subject = learner(taught, downloaded / "dataset")
        rollouts = rolled(subject)
        inner = subject._prepare(rollouts, is_first=is_first)
        first = torch.cat(list(inner.plan[0]))
        assert bool(inner.old_BL[first].any()) != is_first
        for turn in turns(inner.plan[0], 0, 1):
            subject._backward(rollouts, inner, turn, 100, is_first=is_first)
        found.append([p.grad.clone() for p in trained(subject).values()])
        later = torch.cat(list(inner.plan[1]))
        found[-1].append(inner.old_BL[later])
    assert any(gradient.any() for gradient in found[0])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_answers_end_with_the_stop_token_that_was_sampled(taught, downloaded):
    """What follows it is padding that no pass decided on."""
    subject = learner(taught, downloaded / "dataset", gen_length=40)
    rollouts = rolled(subject)
    stops = [subject.tokenizer.eos_token_id, subject.tokenizer.convert_tokens_to_ids(EOT)]
    ended = 0
    for tokens, window, answer in zip(
        rollouts.tokens_BL, rollouts.window_BL, rollouts.answer_BL, strict=True
    ):
        places = torch.isin(tokens, torch.tensor(stops)).logical_and(window).nonzero()[:, 0]
        last = int(places[0]) if len(places) else len(tokens) - 1
        assert torch.equal(answer, window & (torch.arange(len(tokens)) <= last))
        ended += last < len(tokens) - 1
    assert ended


def test_scores_are_taken_at_the_rollouts_temperature(taught, downloaded):
    found = {}
    for temperature in (0.5, 1.0):
        subject = learner(taught, downloaded / "dataset", estimator="one_pass", prompt_mask=0.0)
        rollouts = rolled(subject)
        subject.config = dataclasses.replace(subject.config, temperature=temperature)
        inner = subject._prepare(rollouts)
        found[temperature] = inner.old_BL
    noisy = rollouts.tokens_BL.masked_fill(rollouts.window_BL, subject.model.config.mask_token_id)
    with torch.no_grad():
        logits = subject.model(noisy, rollouts.attention_BL)
    for temperature, old_BL in found.items():
        scores = (logits / temperature).log_softmax(-1)
        expected = scores.gather(-1, rollouts.tokens_BL[..., None])[..., 0] * rollouts.answer_BL
        torch.testing.assert_close(old_BL, expected, rtol=1e-4, atol=1e-4)


def test_a_reward_that_fails_for_one_problem_drops_its_group(taught, downloaded):
    """Its answers are neither good nor bad; the others are compared."""
    subject = learner(taught, downloaded / "dataset")
    problems = [dict(problem) for problem in subject.problems[:4]]
    problems[1]["answer"] = None
    rollouts, figures = roll_out(
        subject.model, subject.tokenizer, problems, subject.config, subject.random
    )
    assert figures["rewards_failed"] > 0
    assert (rollouts.advantage_B.view(4, 4)[1] == 0).all()
    assert figures["groups_without_spread"] <= 3 and "reward" in figures


def test_three_steps_without_any_reward_end_the_run(taught, downloaded, capsys):
    subject = learner(taught, downloaded / "dataset", rewards=[["verified", 1.0]])
    for problem in subject.problems:
        problem["answer"] = None
    for number in range(2):
        assert subject.step(number)["rewards_failed"] == 16
    assert "no reward for 16 answers, the first: problem" in capsys.readouterr().out
    with pytest.raises(ValueError, match="steps 1 to 3: no answer could be rewarded"):
        subject.step(2)


@pytest.mark.parametrize("fault", [SandboxError, RuntimeError, OSError])
def test_a_machine_that_cannot_reward_ends_the_run(taught, downloaded, monkeypatch, fault):
    def broken(*_):
        raise fault("no cgroup")

    subject = learner(taught, downloaded / "dataset")
    monkeypatch.setattr(named, "score", broken)
    with pytest.raises(fault, match="no cgroup"):
        rolled(subject)


def test_problems_that_cannot_be_asked_are_named(downloaded, tmp_path, capsys):
    rows = data.read(downloaded / "dataset", "problems")[:12]
    rows[1]["prompt"] = " \n"
    for number in (2, *range(4, 11)):
        rows[number]["prompt"] *= 40
    data.write(tmp_path, "problems", rows)
    tokenizer = load_tokenizer(downloaded / "model")
    config = coerce.build(GrpoConfig, CONFIG)
    problems, left_out = _usable(tmp_path, tokenizer, config, 128)
    assert problems == [rows[0], rows[3], rows[11]]
    assert left_out == {"too_long": 8, "unusable": 1}
    said = capsys.readouterr().out.splitlines()
    path = tmp_path / "problems.jsonl"
    assert said[0] == f"{path}:2: left out: prompt=' \\n', allowed: a text"
    tokens = data.tokens("problems", rows[2], tokenizer)
    assert said[1].startswith(f"{path}:3: left out: {tokens} tokens, allowed: 112, ")
    assert [line.split(":")[1] for line in said[1:6]] == ["3", "5", "6", "7", "8"]
    assert said[6:] == [f"{path}: left out: 3 more rows"]


def test_the_longest_prompt_that_is_kept_fits_with_its_answer(taught, downloaded, tmp_path):
    """A batch is padded to its longest prompt; with the answer that is the context to the token."""
    tokenizer = load_tokenizer(taught)
    rows = data.read(downloaded / "dataset", "problems")[:2]
    config = coerce.build(GrpoConfig, {**CONFIG, "batch_size": 8})
    data.write(tmp_path, "problems", rows)
    lengths = [data.tokens("problems", row, tokenizer) for row in rows]
    context = max(lengths) + config.gen_length
    assert len(_usable(tmp_path, tokenizer, config, context)[0]) == 2
    subject = learner(taught, downloaded / "dataset", batch_size=8)
    subject.model.config.max_sequence_length = context
    rollouts, _ = roll_out(subject.model, tokenizer, rows, config, subject.random)
    assert rollouts.tokens_BL.shape[1] == context
    if lengths[0] == lengths[1]:
        context -= 1
        with pytest.raises(ValueError, match="no problem leaves room"):
            _usable(tmp_path, tokenizer, config, context)


def test_an_answer_as_long_as_the_context_is_refused_before_anything_is_loaded(
    taught, downloaded, tmp_path
):
    done = stage(
        "grpo",
        {**CONFIG, "gen_length": 100_000},
        check=False,
        base=taught,
        dataset=downloaded / "dataset",
        trained=tmp_path / "a",
        metrics=tmp_path / "m",
    )
    assert done.returncode == 2
    assert "gen_length=100000, allowed: below" in done.stderr


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"block_length": 17}, "block_length=17, allowed: 1 to gen_length=16"),
        ({"slice_tokens": 0}, "slice_tokens=0, allowed: 1 or more"),
        ({"minibatch": 5}, "minibatch=5, allowed: a divisor of batch_size=16"),
        ({"group": 3}, "group=3, allowed: 2 or more, a divisor of batch_size=16"),
    ],
    ids=json.dumps,
)
def test_sizes_that_do_not_fit_each_other_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        coerce.build(GrpoConfig, {**CONFIG, **changes})
