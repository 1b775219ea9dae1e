"""A GPU gives what a CPU gives, and a recorded pass what the pass itself gives."""

import copy
import dataclasses

import pytest
import torch

from model import checkpoint, diffusion, estimators, likelihood, lora, sampler, window
from model.config import LLaDAConfig
from model.cross_entropy import cross_entropy
from model.cuda_graph import MOST, Recorder
from model.llada import LLaDA
from model.projection import wide_logits
from tests.model.factors import competing

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="torch sees no GPU; make gpu-test runs these on one"
)

CONFIG = LLaDAConfig(
    d_model=128,
    n_heads=4,
    n_kv_heads=2,
    n_layers=3,
    mlp_hidden_size=192,
    vocab_size=320,
    mask_token_id=319,
    eos_token_id=1,
    pad_token_id=1,
    max_sequence_length=2048,
)
OPTIONS = dict(gen_length=24, block_length=8, steps=18)


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    cpu = LLaDA(CONFIG).eval()
    return cpu, copy.deepcopy(cpu).cuda()


@pytest.fixture
def recorded(monkeypatch):
    """The recorders that were made and how often each recorded."""
    made = []

    class Counting(Recorder):
        def __init__(self, *given):
            super().__init__(*given)
            self.recordings = []
            made.append(self)

        def hidden(self, tokens_BS, start):
            states_BSD = super().hidden(tokens_BS, start)
            if self.graph is not None and self.graph not in self.recordings:
                self.recordings.append(self.graph)
            return states_BSD

    monkeypatch.setattr(window, "Recorder", Counting)
    return made


def padded():
    tokens = torch.randint(2, 300, (3, 40), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(3, 40, dtype=torch.bool)
    mask[0, :7] = False
    mask[1, 30:] = False
    return tokens, mask


def test_logits(models):
    cpu, gpu = models
    tokens, mask = padded()
    with torch.inference_mode():
        expected = cpu(tokens, mask)
        found = gpu(tokens.cuda(), mask.cuda()).cpu()
    assert (found - expected)[mask].abs().max() < 1e-4


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("changes", [{}, {"cfg_scale": 0.5}, {"threshold": 0.05}], ids=str)
def test_answers(models, recorded, cache, changes):
    cpu, gpu = models
    tokens, mask = padded()
    options = {**OPTIONS, **changes, "cache": cache}
    expected = sampler.generate(cpu, tokens, attention_mask_BP=mask, **options)
    found = sampler.generate(gpu, tokens.cuda(), attention_mask_BP=mask.cuda(), **options)
    assert torch.equal(found.tokens_BL.cpu(), expected.tokens_BL)
    assert found.forward_passes == expected.forward_passes
    # The dual cache's blocks share one recording, a prefix pass is shorter block by block.
    assert [len(each.recordings) for each in recorded] == {
        "none": [],
        "prefix": [3],
        "dual": [1],
    }[cache]


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_rows_that_end_are_recorded_anew(models, recorded, cache):
    cpu, gpu = models
    tokens, _ = padded()
    plain = sampler.generate(cpu, tokens, cache=cache, **OPTIONS).tokens_BL
    stop = int(plain[0, 43])
    options = {**OPTIONS, "cache": cache, "stop_tokens": [stop]}
    expected = sampler.generate(cpu, tokens, **options)
    found = sampler.generate(gpu, tokens.cuda(), **options)
    assert torch.equal(found.tokens_BL.cpu(), expected.tokens_BL)
    assert len(recorded) > 1


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_a_recorded_pass_equals_the_pass(models, monkeypatch, cache):
    """In bf16 too, bit for bit: the kernels are the same."""
    half = copy.deepcopy(models[1]).bfloat16()
    tokens, mask = padded()
    options = {**OPTIONS, "cache": cache, "attention_mask_BP": mask.cuda()}
    replayed = sampler.generate(half, tokens.cuda(), **options).tokens_BL
    monkeypatch.setattr(Recorder, "hidden", as_it_is)
    assert torch.equal(sampler.generate(half, tokens.cuda(), **options).tokens_BL, replayed)


def as_it_is(recorder, tokens_BS, start):
    return recorder.model.hidden(
        tokens_BS, recorder.attention_BL, cache=recorder.cache, start=start
    )


def test_answers_of_an_adapter(models, recorded):
    cpu, gpu = (copy.deepcopy(model) for model in models)
    for model in (cpu, gpu):
        lora.attach(model, rank=4, alpha=8, dropout=0.1, targets=("q_proj", "up_proj"))
        model.eval()
        generator = torch.Generator().manual_seed(3)
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.data = 0.1 * torch.randn(weight.shape, generator=generator).to(weight.device)
    tokens, _ = padded()
    expected = sampler.generate(cpu, tokens, cache="dual", **OPTIONS)
    found = sampler.generate(gpu, tokens.cuda(), cache="dual", **OPTIONS)
    assert torch.equal(found.tokens_BL.cpu(), expected.tokens_BL)
    assert [len(each.recordings) for each in recorded] == [1]


def test_long_passes_are_not_recorded(models, recorded):
    prompt = torch.randint(2, 300, (MOST // 8 + 1, 4)).cuda()
    sampler.generate(models[1], prompt, gen_length=8, block_length=8, steps=4, cache="dual")
    assert not recorded


def test_likelihood(models):
    cpu, gpu = models
    tokens, _ = padded()
    requests = [(tokens[0, :10], tokens[0, 10:20]), (tokens[1, :20], tokens[1, 20:25])]
    expected = likelihood.log_likelihoods(cpu, requests, samples=16)
    found = likelihood.log_likelihoods(gpu, requests, samples=16)
    assert found == pytest.approx(expected, abs=1e-3)


def test_packed_documents_see_themselves_alone(models):
    """FlashAttention's variable-length kernel, in half precision."""
    half = copy.deepcopy(models[1]).bfloat16()
    tokens, _ = padded()
    documents = torch.tensor([[1] * 10 + [2] * 20 + [0] * 10, [1] * 40, [0] * 5 + [1] * 35])
    with torch.inference_mode():
        together = half.hidden(tokens.cuda(), documents_BL=documents.cuda())
        alone = half.hidden(tokens[:1, 10:30].cuda())
    assert (together[0, 10:30] - alone[0]).abs().max() < 0.05


def test_loss_and_gradient(models):
    cpu, gpu = (copy.deepcopy(model).train() for model in models)
    tokens, mask = padded()
    hidden = mask & (torch.rand(tokens.shape, generator=torch.Generator().manual_seed(2)) < 0.5)
    noisy = tokens.masked_fill(hidden, CONFIG.mask_token_id)
    for model in (cpu, gpu):
        given = [t.to(model.device) for t in (noisy, tokens, hidden, mask)]
        diffusion.masked_cross_entropy(model, *given).sum().backward()
    for one, other in zip(cpu.parameters(), gpu.parameters(), strict=True):
        torch.testing.assert_close(other.grad.cpu(), one.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("autocast", [True, False])
def test_log_probabilities_of_competing_tokens_are_not_rounded(autocast):
    """Of bf16 factors, what fp32 gives of them; rounded products are off by 0.02 to 0.03."""
    hidden, weight = competing(torch.float32 if autocast else torch.bfloat16)
    targets = torch.arange(len(hidden)) % 2
    exact = hidden.bfloat16().double() @ weight.bfloat16().double().T
    expected = torch.nn.functional.cross_entropy(exact, targets, reduction="none")
    hidden, weight = hidden.cuda().requires_grad_(), weight.cuda().requires_grad_()
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        found = cross_entropy(hidden, weight, targets.cuda())
        found.sum().backward()
    assert (found.cpu() - expected).abs().max() < 1e-4
    assert hidden.grad.isfinite().all() and weight.grad.isfinite().all()
    with torch.inference_mode():
        logits = window._head(hidden.bfloat16()[None], weight.bfloat16())[0]
    assert logits.dtype == torch.float32
    assert (logits.cpu() - exact).abs().max() < 1e-4
    assert wide_logits(hidden.bfloat16()[:0], weight.bfloat16()).shape == (0, len(weight))


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_scores_of_a_trajectory(models, temperature):
    """GRPO's estimator with slices that are drawn: the same views give the same scores."""
    cpu, gpu = models
    tokens, mask = padded()
    answer = torch.zeros_like(mask)
    answer[:, 20:] = mask[:, 20:]
    order = torch.randperm(40, generator=torch.Generator().manual_seed(4)).expand(3, 40) + 1
    views = estimators.trajectory(
        answer,
        answer,
        order.contiguous(),
        slice_tokens=3,
        passes=4,
        generator=torch.Generator().manual_seed(5),
    )
    rows = torch.arange(3)
    with torch.inference_mode():
        expected = estimators.log_probabilities(cpu, tokens, mask, views, temperature=temperature)
        moved = [
            dataclasses.replace(
                view.rows(rows),
                **{name: value.cuda() for name, value in vars(view).items() if value is not None},
            )
            for view in views
        ]
        found = estimators.log_probabilities(
            gpu, tokens.cuda(), mask.cuda(), moved, temperature=temperature
        )
    assert (found.cpu() - expected).abs().max() < 1e-3
    drawn = estimators.trajectory(
        answer.cuda(),
        answer.cuda(),
        order.contiguous().cuda(),
        slice_tokens=3,
        passes=4,
        generator=torch.Generator("cuda").manual_seed(5),
    )
    assert len(drawn) == 4 and (estimators.token_weights(drawn) >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_loading(models, tmp_path, dtype):
    """Several threads copy: every weight is its own, over several files, and NaN is refused."""
    cpu, _ = models
    checkpoint.save(cpu, tmp_path, shard_size=100_000)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    loaded = checkpoint.load(tmp_path, dtype=dtype, device="cuda")
    assert loaded.device.type == "cuda"
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor.cpu(), cpu.state_dict()[name].to(dtype)), name
    broken = copy.deepcopy(cpu)
    broken.model["transformer"]["ln_f"].weight.data[3] = torch.nan
    checkpoint.save(broken, tmp_path)
    with pytest.raises(ValueError, match=r"ln_f.weight holds NaN"):
        checkpoint.load(tmp_path, dtype=dtype, device="cuda")
