"""The states of a run that succeeded are removed, by the record of its output."""

import pytest

from components import artifact, storage
from components.session import places
from components.session.checkpoints import Checkpoints
from components.session.sinks import History
from components.sft.config import SftConfig
from tests.components.session.test_checkpoints import save

INPUTS = {"base": "b" * 64, "dataset": "d" * 64}


def record(config, tmp_path):
    """The record that the stage writes, and its checkpoints."""
    paths = {}
    for role in INPUTS:
        paths[role] = tmp_path / role
        paths[role].mkdir()
        artifact.record({"x": paths[role]}, stage="download", config=config, inputs={}, summary={})
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    artifact.record({"metrics": metrics}, stage="sft", config=config, inputs=paths, summary={})
    return artifact.read(metrics), Checkpoints("sft", config, paths, History())


def test_what_a_person_keeps_there_stays(place, tmp_path):
    config = SftConfig(steps=3, checkpoint_uri=place, betas=(0.9, 0.99))
    made, kept = record(config, tmp_path)
    for step in (2, 3):
        assert save(kept, step)
    notes = storage.join(kept.location, "notes.json")
    storage.write_json(notes, "precious")
    storage.write_json(storage.join(kept.location, places.ATTEMPTS), {})
    places.remove(made)
    assert list(storage.list_files(kept.location)) == ["notes.json"]


def test_a_run_that_has_not_ended_keeps_its_states(tmp_path, capsys):
    """Another one with the same record may be under way."""
    config = SftConfig(steps=3, checkpoint_uri=str(tmp_path / "kept"))
    made, kept = record(config, tmp_path)
    save(kept, 2)
    places.remove(made)
    assert kept._steps() == [2] and capsys.readouterr().out.count("removed") == 0
    save(kept, 3)
    places.remove(made)
    assert not list((tmp_path / "kept").iterdir())
    places.remove(made)  # a second time, and where nothing was kept, there is nothing to do
    places.remove({**made, "config": {**made["config"], "checkpoint_uri": None}})


@pytest.mark.usefixtures("s3")
def test_a_place_that_cannot_be_reached_is_named(tmp_path, capsys):
    config = SftConfig(steps=3, checkpoint_uri="s3://nowhere/x")
    made, _ = record(config, tmp_path)
    places.remove(made)
    assert "sft: its checkpoints stay in s3://nowhere/x/sft-" in capsys.readouterr().out
