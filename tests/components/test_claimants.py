"""One output has one writer, on one machine or on several that share a volume."""

import fcntl
import json
import os
import threading
import time

import pytest

from components import claimants, outputs
from components.artifact import CLAIM, ArtifactError


@pytest.fixture
def claim(tmp_path, monkeypatch):
    """The claim of a process on another machine."""
    monkeypatch.setattr(claimants, "BEAT", 0.1)
    monkeypatch.setattr(claimants, "SILENCE", 1.5)
    (tmp_path / "model").mkdir()
    facts = {"system": "other", "host": "far", "pid": 7, "started": "today"}
    own = {"stage": "components.merge", "output": "model", "files": [], **facts}
    (tmp_path / "model" / CLAIM).write_text(json.dumps(own))
    return tmp_path / "model" / CLAIM


def test_a_living_process_on_another_machine_keeps_its_output(claim):
    before, is_over = claim.read_text(), threading.Event()

    def touch():
        while not is_over.wait(0.1):
            os.utime(claim)

    thread = threading.Thread(target=touch)
    thread.start()
    words = "another process is writing it: process 7 on far, since today"
    with (
        pytest.raises(ArtifactError, match=words),
        outputs.claimed("components.merge", {"model": claim.parent}, {}),
    ):
        raise AssertionError
    is_over.set()
    thread.join()
    assert claim.read_text() == before


def test_the_output_of_a_process_that_is_gone_is_taken_over(claim):
    with outputs.claimed("components.merge", {"model": claim.parent}, {}):
        own = json.loads(claim.read_text())
        assert own["pid"] == os.getpid() and own["system"] != "other"
        first = claim.stat().st_mtime_ns
        time.sleep(0.5)
        assert claim.stat().st_mtime_ns != first


def test_the_second_of_one_machine_is_told_at_once(tmp_path):
    directories = {"model": tmp_path / "model"}
    with outputs.claimed("components.merge", directories, {}):
        started = time.monotonic()
        with (
            pytest.raises(ArtifactError, match=f"is writing it: process {os.getpid()} on "),
            outputs.claimed("components.merge", directories, {}),
        ):
            raise AssertionError
        assert time.monotonic() - started < 5


def test_a_claim_that_is_locked_and_not_written_yet_is_waited_for(tmp_path):
    """The other process holds the lock for a moment before its claim says who it is."""
    file = tmp_path / "model" / CLAIM
    file.parent.mkdir()
    facts = {"stage": "components.merge", "output": "model", "files": [], **claimants.facts()}
    with file.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        writer = threading.Timer(0.5, file.write_text, [json.dumps(facts)])
        writer.start()
        with (
            pytest.raises(ArtifactError, match=f"is writing it: process {os.getpid()} on "),
            outputs.claimed("components.merge", {"model": file.parent}, {}),
        ):
            raise AssertionError
        writer.join()


def test_a_claim_that_is_removed_before_it_is_locked_belongs_to_the_other_process(
    tmp_path, monkeypatch
):
    """The other process has just ended; whoever starts next makes a claim of its own."""
    lock = fcntl.flock

    def late(stream, operation):
        (tmp_path / "model" / CLAIM).unlink()
        lock(stream, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with (
        pytest.raises(ArtifactError, match="another process is writing it"),
        outputs.claimed("components.merge", {"model": tmp_path / "model"}, {}),
    ):
        raise AssertionError
