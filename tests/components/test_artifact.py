"""Records of finished directories: what they hold, and what is refused."""

import dataclasses
import json
import os

import pytest

from components import artifact, records


@dataclasses.dataclass(frozen=True)
class Config:
    """A configuration with one field."""

    steps: int = 3


def make(path, inputs=None, stage="first", content="weights"):
    path.mkdir()
    (path / "part").mkdir()
    (path / "part" / "file").write_text(content)
    artifact.record(
        {"model": path}, stage=stage, config=Config(), inputs=inputs or {}, summary={"loss": 0.5}
    )
    return path


def test_record_says_what_was_made(tmp_path):
    record = artifact.verify(make(tmp_path / "a"))
    assert record["stage"] == "first" and record["output"] == "model"
    assert record["config"] == {"steps": 3}
    assert record["files"]["part/file"]["bytes"] == 7
    assert record["summary"]["loss"] == 0.5 and record["summary"]["peak_memory_bytes"] > 0
    assert record["packages"]["torch"] and len(record["git_commit"]) == 40


def test_lineage_names_every_ancestor_once(tmp_path):
    first = make(tmp_path / "a")
    second = make(tmp_path / "b", {"base": first}, "second", "more")
    third = make(tmp_path / "c", {"base": second, "dataset": first}, "third", "most")
    record = artifact.read(third)
    assert [entry["stage"] for entry in record["lineage"]] == ["first", "second", "third"]
    assert record["inputs"]["base"]["fingerprint"] == artifact.read(second)["fingerprint"]


def test_fingerprint_is_of_the_content(tmp_path):
    same, twin = make(tmp_path / "a"), make(tmp_path / "b")
    other = make(tmp_path / "c", content="other")
    prints = [artifact.read(path)["fingerprint"] for path in (same, twin, other)]
    assert prints[0] == prints[1] != prints[2]


def spoil_content(path):
    (path / "part" / "file").write_text("Weights")


def spoil_size(path):
    (path / "part" / "file").write_text("weights and more")


def remove(path):
    (path / "part" / "file").unlink()


def add(path):
    (path / "stranger").write_text("")


def empty_record(path):
    (path / artifact.RECORD).write_text("{}")


def break_record(path):
    (path / artifact.RECORD).write_text("{")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_content, "its sha256 is not"),
        (spoil_size, "16 bytes, its record says 7"),
        (remove, "part/file is missing"),
        (add, "stranger is not in its record"),
        (empty_record, "not a record: format=None, allowed: 2"),
        (break_record, "not a record"),
    ],
)
def test_what_does_not_match_is_refused(tmp_path, spoil, words):
    path = make(tmp_path / "a")
    spoil(path)
    with pytest.raises(artifact.ArtifactError, match=words):
        artifact.verify(path)


def relink(path):
    (path / "part" / "file").rename(path.parent / "moved")
    (path / "part" / "file").symlink_to(path.parent / "moved")


def link(path):
    (path / "link").symlink_to("part/file")


def pipe(path):
    os.mkfifo(path / "pipe")


def pipe_record(path):
    (path / artifact.RECORD).unlink()
    os.mkfifo(path / artifact.RECORD)


def folder(path):
    (path / "more" / "below").mkdir(parents=True)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (relink, "part/file is missing"),
        (link, "link is not in its record"),
        (pipe, "pipe is not in its record"),
        (pipe_record, "artifact.json: not a record, allowed: a file of up to"),
        (folder, "more is not in its record"),
    ],
)
def test_only_files_and_their_folders_are_in_an_artifact(tmp_path, spoil, words):
    path = make(tmp_path / "a")
    spoil(path)
    with pytest.raises(artifact.ArtifactError, match=words):
        artifact.verify(path)


def test_every_flipped_bit_of_a_record_is_refused(tmp_path):
    first = make(tmp_path / "a", content="ä")
    path = make(tmp_path / "b", {"base": first}, stage="ä")
    raw = (path / artifact.RECORD).read_bytes()
    assert records.parse(raw) == artifact.verify(path)
    for place in range(len(raw)):
        for bit in range(8):
            flipped = bytearray(raw)
            flipped[place] ^= 1 << bit
            with pytest.raises(ValueError):
                records.parse(bytes(flipped))


def edit(record, **values):
    """Another content under a new seal, as somebody writes it who knows how."""
    return records.sealed(json.loads(json.dumps(record | values)))


EDITS = {
    "format": (1, "format=1, allowed: 2; make the artifact again"),
    "files": ({"../x": {"sha256": "", "bytes": 0}}, "leaves its directory"),
    "summary": ([], "summary is of another type"),
    "inputs": ({"base": {"stage": "a", "output": "b"}}, "it has no inputs.base.fingerprint"),
}


@pytest.mark.parametrize("field", EDITS)
def test_sealed_records_of_another_form_are_refused(tmp_path, field):
    value, words = EDITS[field]
    path = make(tmp_path / "a")
    changed = edit(artifact.read(path), **{field: value})
    (path / artifact.RECORD).write_bytes(records.dump(changed))
    with pytest.raises(artifact.ArtifactError, match=words):
        artifact.read(path)


@pytest.mark.parametrize("raw", [b"[]", b"3", b"[" * 100_000, b"\xff\xfe", b"", b'{"format": 2}'])
def test_what_is_no_record_is_one_line(tmp_path, raw):
    path = make(tmp_path / "a")
    (path / artifact.RECORD).write_bytes(raw)
    with pytest.raises(artifact.ArtifactError, match="not a record") as caught:
        artifact.read(path)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("field", sorted(records.FIELDS.keys() - {"format"}))
def test_missing_fields_are_named(tmp_path, field):
    path = make(tmp_path / "a")
    record = artifact.read(path)
    del record[field]
    (path / artifact.RECORD).write_bytes(records.dump(record))
    with pytest.raises(artifact.ArtifactError, match=f"it has no {field}"):
        artifact.read(path)


@pytest.mark.parametrize("field", ["config", "summary", "inputs", "stage", "output"])
def test_fingerprint_covers(tmp_path, field):
    record = artifact.read(make(tmp_path / "a"))
    other = {"base": {"stage": "a", "output": "b", "fingerprint": "c"}}
    value = "other" if isinstance(record[field], str) else other
    assert edit(record)["fingerprint"] == record["fingerprint"]
    assert edit(record, **{field: value})["fingerprint"] != record["fingerprint"]


def test_fingerprint_leaves_times_out(tmp_path):
    record = artifact.read(make(tmp_path / "a"))
    summary = record["summary"] | {"seconds": 1e6, "peak_memory_bytes": 1}
    assert edit(record, summary=summary)["fingerprint"] == record["fingerprint"]
    assert edit(record, summary=summary)["sha256"] != record["sha256"]


def swap(path, other):
    path.rename(path.with_name("first"))
    other.rename(path)


def test_an_input_that_is_swapped_during_the_run_is_refused(tmp_path):
    """The record would name a base from which the weights do not come."""
    base, other = make(tmp_path / "a"), make(tmp_path / "b", content="other")
    artifact.verify(base)
    swap(base, other)
    with pytest.raises(artifact.ArtifactError, match="another artifact took its place"):
        make(tmp_path / "c", {"base": base})
    assert not (tmp_path / "c" / artifact.RECORD).exists()


def test_an_input_that_is_changed_during_the_run_is_refused(tmp_path):
    base = make(tmp_path / "a")
    artifact.verify(base)
    spoil_content(base)
    with pytest.raises(artifact.ArtifactError, match="its sha256 is not"):
        make(tmp_path / "c", {"base": base})


def test_an_input_that_is_only_touched_is_the_same(tmp_path):
    base = make(tmp_path / "a")
    record = artifact.verify(base)
    os.utime(base / "part" / "file", (0, 0))
    made = artifact.read(make(tmp_path / "c", {"base": base}))
    assert made["inputs"]["base"]["fingerprint"] == record["fingerprint"]


def test_files_and_folders_reach_the_disk_before_the_record(tmp_path, monkeypatch):
    """A power cut after the record must not find an empty file under it."""
    flushed, sync = [], os.fsync

    def observe(descriptor):
        sync(descriptor)
        flushed.append(os.readlink(f"/proc/self/fd/{descriptor}"))

    monkeypatch.setattr(os, "fsync", observe)
    path = make(tmp_path / "a")
    draft = next(n for n, name in enumerate(flushed) if ".artifact.json.draft-" in name)
    assert {str(path), str(path / "part"), str(path / "part" / "file")} <= set(flushed[:draft])
    assert str(path) in flushed[draft:]  # and the record's own name


def test_no_draft_is_left(tmp_path):
    path = make(tmp_path / "a")
    assert json.loads((path / artifact.RECORD).read_text())
    assert {file.name for file in path.iterdir()} == {"part", artifact.RECORD}
