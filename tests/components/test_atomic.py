"""Files and directories that are there whole or not at all."""

import fnmatch
import json

import pytest

from components import atomic


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_json_replaces(tmp_path):
    for value in ({"a": 1}, {"b": 2}):
        atomic.write_json(tmp_path / "facts.json", value)
        assert json.loads((tmp_path / "facts.json").read_text()) == value
    assert names(tmp_path) == ["facts.json"]


def test_new_json_replaces_nothing(tmp_path):
    atomic.write_json(tmp_path / "facts.json", 1, new=True)
    with pytest.raises(FileExistsError):
        atomic.write_json(tmp_path / "facts.json", 2, new=True)
    assert json.loads((tmp_path / "facts.json").read_text()) == 1
    assert names(tmp_path) == ["facts.json"]


def test_what_cannot_be_written_leaves_the_old_content(tmp_path):
    atomic.write_json(tmp_path / "facts.json", 1)
    with pytest.raises(TypeError):
        atomic.write_json(tmp_path / "facts.json", {1, 2})
    assert json.loads((tmp_path / "facts.json").read_text()) == 1
    assert names(tmp_path) == ["facts.json"]


def test_nothing_is_in_place_before_the_block_ends(tmp_path):
    place = tmp_path / "folder"
    with atomic.replacing(place) as draft:
        draft.mkdir()
        (draft / "part").write_text("a")
        assert not place.exists()
        assert fnmatch.fnmatchcase(draft.name, f".folder{atomic.DRAFT}")
    assert names(tmp_path) == ["folder"] and names(place) == ["part"]


def test_a_directory_that_is_not_finished_goes(tmp_path):
    with pytest.raises(KeyError), atomic.replacing(tmp_path / "folder") as draft:
        draft.mkdir()
        (draft / "part").write_text("a")
        raise KeyError
    assert names(tmp_path) == []


def test_a_directory_takes_an_empty_place_only(tmp_path):
    place = tmp_path / "folder"
    place.mkdir()
    for content in ("first", "second"):
        if content == "second":
            with pytest.raises(FileExistsError), atomic.replacing(place) as draft:
                draft.mkdir()
        else:
            with atomic.replacing(place) as draft:
                draft.mkdir()
                (draft / content).write_text("")
    assert names(place) == ["first"] and names(tmp_path) == ["folder"]


def test_drafts_of_a_killed_process_are_removed(tmp_path):
    for name in (".folder.draft-0123abcd", ".folder.draft-mine", ".other.draft-0123abcd"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").write_text("a")
    atomic.remove_drafts(tmp_path / "folder")
    assert names(tmp_path) == [".folder.draft-mine", ".other.draft-0123abcd"]
