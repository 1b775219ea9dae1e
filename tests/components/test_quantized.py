"""QLoRA: trained where bitsandbytes works, refused in one line where it does not."""

import importlib.util

from components.artifact import RECORD
from tests.components.session.runs import ADAPTED, Runs


def test_quantized_base_trains_or_is_refused(tmp_path, downloaded):
    runs = Runs(tmp_path, downloaded)
    config = {**ADAPTED, "steps": 2, "lora": {"rank": 4, "alpha": 8, "quantized": True}}
    if importlib.util.find_spec("bitsandbytes"):
        runs.complete(config)
        assert all(0 < row["loss"] < 20 for row in runs.records())
        return
    text = runs.complete(config, code=2)
    (line,) = [line for line in text.splitlines() if ": error: " in line]
    assert "lora.quantized=True, allowed: false" in line and "bitsandbytes" in line
    assert not list(tmp_path.rglob(RECORD))


def test_quantized_weights_are_not_sharded(tmp_path, downloaded):
    runs = Runs(tmp_path, downloaded)
    config = {**ADAPTED, "parallel": "shard", "lora": {"quantized": True}}
    assert "parallel='shard', allowed: replicate" in runs.complete(config, code=2)
