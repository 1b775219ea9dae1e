"""Records of finished directories: what they hold, and what is refused."""

import dataclasses
import json

import pytest

from components import artifact


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
        (empty_record, "it lists no files"),
        (break_record, "not a record"),
    ],
)
def test_what_does_not_match_is_refused(tmp_path, spoil, words):
    path = make(tmp_path / "a")
    spoil(path)
    with pytest.raises(artifact.ArtifactError, match=words):
        artifact.verify(path)


def test_no_draft_is_left(tmp_path):
    path = make(tmp_path / "a")
    assert json.loads((path / artifact.RECORD).read_text())
    assert {file.name for file in path.iterdir()} == {"part", artifact.RECORD}
