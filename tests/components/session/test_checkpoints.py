"""The checkpoints of one run beside whatever else is in their place."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from components import storage
from components.session.checkpoints import Checkpoints
from components.session.metrics import History
from components.sft.config import SftConfig
from tests.components.conftest import point_at
from tests.components.storage.faulty_server import Faulty, busy


def checkpoints(place, keep=2, **options):
    config = SftConfig(steps=100, checkpoint_uri=place, checkpoint_keep=keep, **options)
    return Checkpoints("sft", config, {}, History())


def save(kept, step):
    return kept.save(
        step,
        iter([("weight", torch.full((4,), float(step)))]),
        {"step": step, "writer": kept.writer},
    )


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


def test_a_save_that_fails_is_tried_with_the_next(s3, monkeypatch, capsys):
    kept = checkpoints(f"s3://bucket/away-{random.getrandbits(32):x}")
    monkeypatch.setenv("STORAGE_RETRY_MINUTES", "0.01")
    assert save(kept, 1)
    with Faulty(s3, lambda handler, ask: busy()) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        assert not save(kept, 2)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    assert (
        "checkpoint of step 2 is not saved, the next one is tried: s3://" in capsys.readouterr().out
    )
    assert save(kept, 3)
    assert kept._steps() == [1, 3]


def test_a_place_that_takes_nothing_is_found_at_the_start(s3):
    with pytest.raises(storage.StorageError, match="no such bucket"):
        checkpoints("s3://nowhere/x").latest()


def test_four_writers_of_one_place(place):
    """Each writes the same steps with content of its own; what is there is always whole."""

    def run(number):
        kept = checkpoints(place)
        kept.latest()
        for step in range(1, 9):
            save(kept, step)
        return kept.latest().facts["step"]

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(run, range(4))) == [8] * 4
    assert checkpoints(place)._steps() == [7, 8]
    names = {name.partition("/")[0] for name in storage.list_files(checkpoints(place).location)}
    assert names == {"step-00000007", "step-00000008"}


def test_the_newer_steps_of_another_process_stay(place):
    fast, slow = checkpoints(place), checkpoints(place)
    for step in (10, 20):
        save(fast, step)
    save(slow, 5)
    assert fast._steps() == [10, 20]
