"""The checkpoints of one run beside whatever else is in their place."""

import json
import os
import random
import resource
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import save_file

from components import storage
from components.session.checkpoints import Checkpoints
from components.session.sinks import History
from components.sft.config import SftConfig
from components.storage import directories
from tests.components.conftest import point_at
from tests.components.storage.faulty_server import Faulty, busy, refusal


def checkpoints(place, keep=2, **options):
    config = SftConfig(steps=100, checkpoint_uri=place, checkpoint_keep=keep, **options)
    return Checkpoints("sft", config, {}, History())


def save(kept, step):
    """Whether it is saved in the end."""
    kept.save(
        step,
        iter([("weight", torch.full((4,), float(step)))]),
        {"step": step, "writer": kept.writer},
    )
    return kept.settle() == step


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


def test_the_older_state_goes_only_when_the_newer_one_is_on_the_disk(tmp_path, monkeypatch):
    """A power cut in between must find one of them whole."""
    kept, events = checkpoints(str(tmp_path), keep=1), []
    assert save(kept, 1)
    own = {name: getattr(os, name) for name in ("fsync", "unlink", "rename", "replace")}

    def observe(name, place):
        def call(subject, *arguments, **options):
            own[name](subject, *arguments, **options)
            events.append((name, place(subject)))

        return call

    for name in own:
        place = (lambda number: os.readlink(f"/proc/self/fd/{number}")) if name == "fsync" else str
        monkeypatch.setattr(os, name, observe(name, place))
    assert save(kept, 2)
    monkeypatch.undo()
    older = f"{kept.location}/step-00000001/"
    first = next(
        n for n, event in enumerate(events) if event == ("unlink", f"{older}.manifest.json")
    )
    assert not [place for _, place in events[:first] if place.startswith(older)]
    moved = max(n for n, (name, _) in enumerate(events[:first]) if name in ("rename", "replace"))
    draft = events[moved][1]
    written = [f"{draft}/{file}" for file in os.listdir(f"{kept.location}/step-00000002")]
    assert {draft, *written} <= {place for name, place in events[:moved] if name == "fsync"}
    assert ("fsync", kept.location) in events[moved:first]  # its name


def test_the_older_state_goes_only_when_the_newer_one_is_stored(nanio, monkeypatch, tmp_path):
    """Also not if all of it but the manifest is there."""
    point_at(nanio, monkeypatch)
    kept = checkpoints(f"s3://bucket/{tmp_path.name}", keep=1)
    answers, deleted, is_shut = [], [], True

    def observe(handler, ask):
        is_manifest = handler.command == "PUT" and handler.path.endswith(".manifest.json")
        answer = refusal("AccessDenied") if is_manifest and is_shut else ask()
        kind = "delete" if handler.command == "DELETE" or "delete" in handler.path else "other"
        if kind == "delete":
            deleted.append(handler.path)
        answers.append(("commit" if is_manifest else kind, answer.status))
        return answer

    assert save(kept, 1)
    with Faulty(nanio, observe) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        assert not save(kept, 2)
        assert ("commit", 403) in answers and "delete" not in dict(answers)
        assert checkpoints(f"s3://bucket/{tmp_path.name}").latest().facts["step"] == 1
        answers.clear()
        deleted.clear()
        is_shut = False
        assert save(kept, 3)
    assert answers.index(("commit", 200)) < [kind for kind, _ in answers].index("delete")
    assert deleted[0].endswith("/step-00000001/.manifest.json")  # what is left looks incomplete
    assert kept._steps() == [3]


def of_a_state(handler):
    return handler.command == "GET" and ".safetensors" in handler.path


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (refusal("AccessDenied"), storage.Refused, "lack s3:GetObject"),
        (busy(), storage.Unavailable, "SlowDown"),
    ],
)
def test_a_checkpoint_that_cannot_be_fetched_is_not_damaged(
    nanio, monkeypatch, tmp_path, capsys, fault, kind, words
):
    """It is neither passed over nor deleted with the next save."""
    point_at(nanio, monkeypatch)
    place = f"s3://bucket/{tmp_path.name}"
    assert save(checkpoints(place), 1)
    monkeypatch.setenv("STORAGE_RETRY_MINUTES", "0")
    with Faulty(nanio, lambda handler, ask: fault if of_a_state(handler) else ask()) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        with pytest.raises(kind, match=words):
            checkpoints(place).latest()
    assert "damaged" not in capsys.readouterr().out
    monkeypatch.setenv("AWS_ENDPOINT_URL", nanio.endpoint)
    assert checkpoints(place).latest().facts["step"] == 1


def test_a_full_disk_here_is_no_damage_there(tmp_path, capsys):
    kept = checkpoints(str(tmp_path / "kept"))
    assert save(kept, 1)
    state = next((tmp_path / "kept").rglob("*.safetensors"))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (state.stat().st_size - 1, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            checkpoints(str(tmp_path / "kept")).latest()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "damaged" not in capsys.readouterr().out


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


def test_four_writers_of_one_place(place, capsys):
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
    # A process that was slower than another, or cleared away the same files, has lost nothing.
    assert "older checkpoints stay" not in capsys.readouterr().out


def test_the_newer_steps_of_another_process_stay(place):
    fast, slow = checkpoints(place), checkpoints(place)
    for step in (10, 20):
        save(fast, step)
    save(slow, 5)
    assert fast._steps() == [10, 20]


FACTS = {"format": 1, "step": 1, "wandb": "a"}
WRONG = {
    "a list": ("facts.json", b"[]"),
    "deep": ("facts.json", b"[" * 100_000),
    "no step": ("facts.json", b'{"format": 1, "wandb": "a"}'),
    "not text": ("facts.json", b"\xff\xfe\xfd"),
    "a number for a name": ("facts.json", b'{"format": 1, "step": 1, "wandb": 3}'),
    "records that are no records": ("metrics.jsonl", b"[]\n"),
    "half a record": ("metrics.jsonl", b'{"step": '),
    "no tensors": ("state-00001.safetensors", b"x" * 100),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_checkpoint_of_another_form_is_damaged(tmp_path, capsys, case):
    """Its manifest fits: somebody made it so, or another version of this program did."""
    kept = checkpoints(str(tmp_path / "kept"))
    made = tmp_path / "made"
    made.mkdir()
    save_file({"weight": torch.ones(4)}, made / "state-00001.safetensors")
    (made / "facts.json").write_text(json.dumps(FACTS))
    (made / "metrics.jsonl").write_text("")
    directories.put_directory(made, storage.join(kept.location, "step-00000001"))
    assert kept.latest().facts == FACTS
    name, content = WRONG[case]
    (made / name).write_bytes(content)
    directories.put_directory(made, storage.join(kept.location, "step-00000002"))
    made_facts = dict(FACTS, step=2)
    if name != "facts.json":
        (made / "facts.json").write_text(json.dumps(made_facts))
        directories.put_directory(made, storage.join(kept.location, "step-00000002"), replace=True)
    assert checkpoints(str(tmp_path / "kept")).latest().facts == FACTS
    assert "checkpoint of step 2 is damaged and not used: " in capsys.readouterr().out


MANIFESTS = {
    "a list": b"[]",
    "deep": b"[" * 100_000,
    "no files": b"{}",
    "a list of files": b'{"files": []}',
    "no checksum": b'{"files": {"facts.json": {"bytes": 1}}}',
    "a number as a checksum": b'{"files": {"facts.json": {"sha256": 1}}}',
    "data elsewhere": b'{"files": {}, "data": "../../x"}',
    "cut": b'{"files": {"fac',
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_manifest_of_another_form_is_damage(tmp_path, capsys, case):
    kept = checkpoints(str(tmp_path))
    save(kept, 1)
    save(kept, 2)
    (tmp_path / kept.location / "step-00000002" / ".manifest.json").write_bytes(MANIFESTS[case])
    assert checkpoints(str(tmp_path)).latest().facts["step"] == 1
    assert "checkpoint of step 2 is damaged and not used: " in capsys.readouterr().out
