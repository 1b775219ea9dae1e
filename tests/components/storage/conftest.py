"""The directory that the tests of this folder send and fetch."""

import random

import pytest


@pytest.fixture
def folder(tmp_path):
    """A directory with a file below a folder, an empty file, and one of several parts."""
    root = tmp_path / "folder"
    (root / "below").mkdir(parents=True)
    (root / "below" / "text").write_text("words\n")
    (root / "empty").write_bytes(b"")
    (root / "large").write_bytes(random.Random(0).randbytes(9 << 20))
    return root
