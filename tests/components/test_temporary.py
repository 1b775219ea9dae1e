"""Temporary folders: gone with their process, or at the next start if it was killed."""

import os
import signal
import subprocess
import sys
import tempfile

import pytest

from components import temporary

PROGRAM = """
import sys
from components import temporary
path = temporary.folder()
path.mkdir()
(path / "file").write_text("large")
print(path, flush=True)
sys.stdin.read()
"""
HALF = """
import sys
from components import atomic, temporary
with atomic.replacing(temporary.folder()) as draft:
    draft.mkdir()
    print(draft, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


def program(text=PROGRAM):
    command = [sys.executable, "-c", text]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_the_folder_of_a_killed_process_is_swept_and_that_of_a_living_one_stays():
    with program() as killed, program() as living:
        folders = [each.stdout.readline().strip() for each in (killed, living)]
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        temporary.sweep()
        assert [os.path.exists(folder) for folder in folders] == [False, True]
        living.stdin.close()
        living.wait()
        assert not os.path.exists(folders[1])
    assert list(temporary.root().iterdir()) == []


def test_what_was_being_moved_into_a_folder_is_swept_with_it():
    with program(HALF) as killed:
        killed.stdout.readline()
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
    assert len(list(temporary.root().iterdir())) == 2
    temporary.sweep()
    assert list(temporary.root().iterdir()) == []


def test_the_first_folder_of_a_process_sweeps_what_killed_ones_left(monkeypatch):
    with program() as killed:
        folder = killed.stdout.readline().strip()
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
    monkeypatch.setattr(temporary, "HELD", [])
    assert os.path.exists(folder)
    with temporary.directory():
        assert not os.path.exists(folder)


def test_a_directory_lasts_as_long_as_its_block():
    with temporary.directory() as path:
        (path / "file").write_text("a")
        temporary.sweep()
        assert path.is_dir()
    assert not path.exists()


def test_the_root_belongs_to_the_user(tmp_path):
    (tmp_path / "other").mkdir()
    name = temporary.root().name
    temporary.root().rmdir()
    (tmp_path / name).symlink_to(tmp_path / "other")
    with pytest.raises(PermissionError, match="belongs to somebody else"):
        temporary.root()
