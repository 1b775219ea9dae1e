"""Names from buckets, manifests and records: what leaves the directory is refused."""

import pytest

from components import names

GOOD = ["a", ".hidden", "a/b/c.json", "ä ö", "..a", "a..b/c", "x" * 255]
BAD = {
    "": "is empty",
    "/etc/passwd": "leaves its directory",
    "../x": "leaves its directory",
    "m/../../x": "leaves its directory",
    "a/..": "leaves its directory",
    "a//b": "is not the shortest name",
    "./a": "is not the shortest name",
    "a/": "is not the shortest name",
    "a\0b": "cannot be printed",
    "a\nb": "cannot be printed",
    "\udc80": "cannot be printed",
    "x" * 256: "is too long",
    "x/" * 3000 + "x": "is too long",
}


@pytest.mark.parametrize("name", GOOD)
def test_good_names(name):
    assert names.check(name, "place") == name


@pytest.mark.parametrize(("name", "words"), [*BAD.items(), (3, "is no text"), (None, "is no text")])
def test_bad_names_are_refused_in_one_line(name, words):
    with pytest.raises(ValueError, match=f"^place: the name .*{words}") as caught:
        names.check(name, "place")
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 300


def test_no_file_is_a_folder_too():
    names.check_all(["a/b", "a/c", "ab"], "place")
    with pytest.raises(ValueError, match="'a/b' is both a file and a folder of 'a/b/c'"):
        names.check_all(["a/b/c", "a/b"], "place")
