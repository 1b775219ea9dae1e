"""The checkpoints of one run beside whatever else is in their place."""

import pytest
import torch

from components import storage
from components.session.checkpoints import Checkpoints
from components.session.metrics import History
from components.sft.config import SftConfig
from tests.components.conftest import point_at


def checkpoints(place, keep=2, **options):
    config = SftConfig(steps=100, checkpoint_uri=place, checkpoint_keep=keep, **options)
    return Checkpoints("sft", config, {}, History())


def save(kept, step):
    kept.save(step, iter([("weight", torch.full((4,), float(step)))]), {"step": step})


@pytest.mark.parametrize("marker", ["/", "/step-00000001/"])
def test_a_folder_marker_deletes_nothing(juicefs, monkeypatch, tmp_path, marker):
    """Consoles make empty objects whose names end with a slash; nanio refuses them."""
    point_at(juicefs, monkeypatch)
    remote = f"s3://bucket/{tmp_path.name}"
    kept = checkpoints(remote)
    for name in (f"{remote}/", kept.location + marker):
        key = name.removeprefix("s3://bucket/")
        juicefs.client().put_object(Bucket="bucket", Key=key, Body=b"")
    for step in (1, 2, 3):
        save(kept, step)
    assert kept._steps() == [2, 3]
    assert checkpoints(remote).latest().facts["step"] == 3


def test_pruning_leaves_the_files_of_a_person(place):
    kept = checkpoints(place, keep=1)
    notes = [storage.join(kept.location, name) for name in ("notes.json", "best/notes.json")]
    for each in notes:
        storage.write_json(each, "precious")
    for step in (1, 2):
        save(kept, step)
    assert kept._steps() == [2]
    assert [storage.read_json(each) for each in notes] == ["precious"] * 2
