"""The directory that the tests of this folder send and fetch, and parts that suit their sizes."""

import random

import pytest

from components.storage import downloads, uploads

PART = 8 << 20


@pytest.fixture
def folder(tmp_path):
    """A directory with a file below a folder, an empty file, and one of several parts."""
    root = tmp_path / "folder"
    (root / "below").mkdir(parents=True)
    (root / "below" / "text").write_text("words\n")
    (root / "empty").write_bytes(b"")
    (root / "large").write_bytes(random.Random(0).randbytes(9 << 20))
    return root


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Files of 9 and 21 MiB have several."""
    for module in (uploads, downloads):
        monkeypatch.setattr(module, "PART", PART)
