"""Merging equals its formula bit for bit and peft's own merge, through the real command line."""

import json
import resource
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from components import artifact
from components.cli import main
from components.merge import stage as merging_stage
from components.merge.config import MergeConfig
from model import checkpoint, lora, safetensors_files
from model.config import LLaDAConfig
from model.llada import LLaDA
from tests.conftest import stage

EMBEDDING, HEAD = checkpoint.EMBEDDING, checkpoint.HEAD
QUERY = "model.transformer.blocks.0.q_proj.weight"
ATTENTION = ("q_proj", "k_proj", "v_proj", "attn_out")
BLOCKS = r".*\.blocks\.\d+\.(q_proj|v_proj|ff_out)"


def network(dtype=torch.float32, **changes):
    torch.manual_seed(0)
    shape = dict(d_model=32, n_heads=4, n_layers=2, mlp_hidden_size=48, vocab_size=70)
    return LLaDA(LLaDAConfig(**shape, **changes)).to(dtype).eval()


def trained(model, **settings):
    """peft's wrapper of `model` with every adapter weight moved away from where it started."""
    options = {"r": 4, "lora_alpha": 12, "target_modules": BLOCKS, **settings}
    wrapped = get_peft_model(model, LoraConfig(**options))
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return wrapped


def recorded(path, name):
    """Closes a directory that no stage made, as download does for models from elsewhere."""
    artifact.record(
        {name: path}, stage="download", config=MergeConfig(), inputs={}, summary={"made": 1}
    )


def merged(root, model, wrapped, *, change=None):
    """Runs the stage on `model` and the adapter of `wrapped`, which `change` may damage."""
    checkpoint.save(model, root / "base")
    wrapped.save_pretrained(root / "trained")
    if change is not None:
        change(root / "trained")
    recorded(root / "base", "base")
    recorded(root / "trained", "trained")
    run(root)


def run(root):
    """The stage's command line, in this process."""
    names = ("base", "trained", "model", "metrics")
    main(merging_stage.run, [word for name in names for word in (f"--{name}", str(root / name))])


def weights(path):
    return {
        name: t
        for file in safetensors_files.weight_files(path)
        for name, t in load_file(file).items()
    }


def formula(base, adapter, scale):
    """W + scale B A in fp32, rounded once to W's dtype, for every weight of an adapter."""
    matrices = load_file(adapter / lora.WEIGHTS)
    found = dict(base)
    for name in base:
        layer = f"{lora.PREFIX}{name.removesuffix('.weight')}"
        if (low := matrices.get(f"{layer}.lora_A.weight")) is not None:
            high = matrices[f"{layer}.lora_B.weight"]
            update = scale * (high.float() @ low.float())
            found[name] = (base[name].float() + update).to(base[name].dtype)
    return found


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


@pytest.mark.parametrize("shard_size", ["4GB", 20_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("half", [True, False])
def test_merge_is_the_formula(tmp_path, dtype, half, shard_size, monkeypatch):
    """Also where the rows of a weight come in several parts."""
    monkeypatch.setattr("model.merging.ROWS", 300)
    base = network(dtype, n_kv_heads=2)
    checkpoint.save(base, tmp_path / "base", shard_size=shard_size)
    wrapped = trained(base)
    (wrapped.bfloat16() if half else wrapped).save_pretrained(tmp_path / "trained")
    (tmp_path / "model").mkdir()
    merging_stage.merge(tmp_path / "base", [tmp_path / "trained"], tmp_path / "model")
    before, after = weights(tmp_path / "base"), weights(tmp_path / "model")
    same(after, formula(before, tmp_path / "trained", 3.0))
    assert sum(not torch.equal(after[name], before[name]) for name in before) == 6
    for file in safetensors_files.weight_files(tmp_path / "base"):
        ours, theirs = file, tmp_path / "model" / file.name
        assert [n for n, _ in safetensors_files.header(ours)] == [
            n for n, _ in safetensors_files.header(theirs)
        ]


def test_merge_of_real_sizes_is_the_formula(tmp_path):
    """One block of the 8B width: products of 4096 and 12288 rows and rank 128."""
    names = {"q_proj": (4096, 4096), "up_proj": (12288, 4096)}
    torch.manual_seed(0)
    layers = {f"model.transformer.blocks.0.{name}": shape for name, shape in names.items()}
    base = {f"{layer}.weight": torch.randn(shape).bfloat16() for layer, shape in layers.items()}
    save_file(base, tmp_path / "base.safetensors")
    pairs = {}
    for layer, (high, low) in layers.items():
        pairs[f"{lora.PREFIX}{layer}.lora_A.weight"] = torch.randn(128, low)
        pairs[f"{lora.PREFIX}{layer}.lora_B.weight"] = torch.randn(high, 128) / 50
    save_file(pairs, tmp_path / lora.WEIGHTS)
    settings = {"peft_type": "LORA", "r": 128, "lora_alpha": 256}
    (tmp_path / lora.CONFIG).write_text(json.dumps(settings))
    adapter = merging_stage.merging.Adapter(tmp_path)
    expected = formula(base, tmp_path, 2.0)
    for name, span in safetensors_files.header(tmp_path / "base.safetensors"):
        assert torch.equal(torch.cat(list(adapter.merge(name, span))), expected[name])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"use_dora": True, "use_rslora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"blocks.1.v_proj": 5}},
        {"trainable_token_indices": [3, 69, 4]},
        {"trainable_token_indices": {"wte": [3, 69, 4], "transformer.ff_out": [5, 69]}},
        {"modules_to_save": ["wte", "ln_f"]},
        {"target_modules": r".*\.blocks\.\d+\.q_proj|model\.transformer\.ff_out"},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_merge_is_pefts(tmp_path, settings, dtype):
    model = network(dtype)
    merged(tmp_path, network(dtype), trained(model, **settings))
    expected = PeftModel.from_pretrained(network(dtype), tmp_path / "trained").merge_and_unload()
    same(weights(tmp_path / "model"), expected.state_dict())
    changed = json.loads((tmp_path / "metrics" / artifact.METRICS).read_text())["updated_tensors"]
    before = network(dtype).state_dict()
    after = weights(tmp_path / "model")
    assert changed == sum(not torch.equal(before[name], after[name]) for name in before)


def test_trained_tokens_of_tied_weights(tmp_path):
    tied = {"weight_tying": True}
    wrapped = trained(network(**tied), trainable_token_indices=[3, 69])
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        expected = wrapped(tokens)
    merged(tmp_path, network(**tied), wrapped)
    loaded = checkpoint.load(tmp_path / "model", dtype=torch.float32)
    with torch.no_grad():
        assert (loaded(tokens) - expected).abs().max() < 1e-4
    assert not torch.equal(loaded.head_weight[69], network(**tied).head_weight[69])


def test_full_disk_leaves_no_model(tmp_path):
    merged(tmp_path, network(), trained(network()))
    (tmp_path / "second").mkdir()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            merging_stage.merge(tmp_path / "base", [tmp_path / "trained"], tmp_path / "second")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not (tmp_path / "second" / "config.json").exists()


def test_a_fully_trained_model_is_the_result(tmp_path):
    checkpoint.save(network(), tmp_path / "base")
    torch.manual_seed(9)
    checkpoint.save(LLaDA(network().config), tmp_path / "trained", shard_size=20_000)
    recorded(tmp_path / "base", "base")
    recorded(tmp_path / "trained", "trained")
    run(tmp_path)
    same(weights(tmp_path / "model"), weights(tmp_path / "trained"))
    checkpoint.load(tmp_path / "model")


def test_merged_model_computes_what_the_adapter_does(tmp_path, downloaded, adapted):
    shutil.copytree(downloaded / "model", tmp_path / "base")
    shutil.copytree(adapted / "trained", tmp_path / "trained")
    run(tmp_path)
    tokens = torch.arange(12)[None] + 20
    merged_model = checkpoint.load(tmp_path / "model", dtype=torch.float32)
    base = checkpoint.load(tmp_path / "base", dtype=torch.float32)
    with torch.no_grad():
        wrapped = PeftModel.from_pretrained(base, tmp_path / "trained")
        assert (wrapped(tokens) - merged_model(tokens)).abs().max() < 1e-5
    assert (tmp_path / "model" / "tokenizer.json").exists()


def test_lineage_reaches_the_download(tmp_path, downloaded, adapted):
    stage(
        "merge",
        base=downloaded / "model",
        trained=adapted / "trained",
        model=tmp_path / "model",
        metrics=tmp_path / "metrics",
    )
    record = artifact.verify(tmp_path / "model")
    ancestors = [(entry["stage"], entry["output"]) for entry in record["lineage"]]
    assert ancestors == [
        ("download", "model"),
        ("download", "dataset"),
        ("sft", "trained"),
        ("merge", "model"),
    ]
