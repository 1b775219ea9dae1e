"""A state on its way to storage while training goes on."""

import os
import threading
import time

import pytest
import torch

from components.session import states
from components.session.session import keep_progress
from components.sft.config import SftConfig
from tests.components.session.test_checkpoints import checkpoints
from tests.components.storage.faulty_server import Faulty

SLOW = 1.0  # seconds that the storage needs for an object


@pytest.fixture
def slow(s3, monkeypatch):
    """A storage that takes its time with every object, once it is told to."""
    told = threading.Event()

    def answer(handler, ask):
        if told.is_set() and handler.command == "PUT":
            time.sleep(SLOW)
        return ask()

    with Faulty(s3, answer) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        yield told


def test_training_goes_on_while_a_state_is_sent(slow):
    """And may change its weights: the state is that of the step."""
    kept = checkpoints(f"s3://bucket/slow-{os.getpid()}", checkpoint_minutes=1e-9)
    weight = torch.zeros(1000)
    slow.set()
    started = time.monotonic()
    kept.save(1, iter([("weight", weight)]), {"step": 1})
    assert time.monotonic() - started < SLOW / 2
    weight += 1
    assert not kept.is_due(2), "the first one is still on its way"
    assert kept.settle() == 1 and kept.is_due(2)
    slow.clear()
    assert kept.latest().tensors["weight"].eq(0).all()


def test_what_is_due_by_steps_waits_for_the_one_before(slow):
    kept = checkpoints(f"s3://bucket/steps-{os.getpid()}", checkpoint_steps=2)
    slow.set()
    kept.save(2, iter([("weight", torch.zeros(4))]), {"step": 2})
    assert kept.is_due(4) and kept.newest == 0
    slow.clear()
    kept.save(4, iter([("weight", torch.ones(4))]), {"step": 4})
    assert kept.newest == 2 and kept.settle() == 4 and kept._steps() == [2, 4]


def test_a_state_on_its_way_arrives_also_when_training_fails(slow, tmp_path):
    """The process ends after the error, and with it the thread that sends the state."""
    (tmp_path / "metrics").mkdir()
    place = f"s3://bucket/fails-{os.getpid()}"
    config = SftConfig(steps=100, checkpoint_uri=place)
    with (
        pytest.raises(ZeroDivisionError),
        keep_progress("sft", config, inputs={}, metrics=tmp_path / "metrics") as progress,
    ):
        slow.set()
        progress.checkpoints.save(1, iter([("weight", torch.zeros(4))]), {"step": 1})
        raise ZeroDivisionError
    assert progress.checkpoints._steps() == [1]


def test_few_shards_are_in_memory_at_a_time(monkeypatch, tmp_path):
    monkeypatch.setattr(states, "SHARD_BYTES", 400)
    alive, most, lock = 0, 0, threading.Event()

    def tensors():
        nonlocal alive, most
        for number in range(20):
            alive += 1
            most = max(most, alive)
            if alive > states.AHEAD:
                lock.set()
            yield f"weight/{number}", torch.full((100,), float(number))

    def write(delivery):
        nonlocal alive
        lock.wait(10)
        for number, shard in enumerate(delivery):
            assert list(shard) == [f"weight/{number}"]
            states.write(tmp_path / "a", [shard])
            alive -= 1

    (tmp_path / "a").mkdir()
    delivery = states.Delivery(write)
    delivery.take(tensors())
    delivery.wait()
    assert alive == 0 and states.AHEAD < most <= states.AHEAD + 2


def test_a_thread_that_fails_holds_nobody_up(monkeypatch):
    """Training hands over the rest, and learns of it when it settles."""
    monkeypatch.setattr(states, "SHARD_BYTES", 4)

    def write(delivery):
        next(iter(delivery))
        raise KeyError("a mistake")

    delivery = states.Delivery(write)
    delivery.take((f"weight/{number}", torch.zeros(1)) for number in range(20))
    with pytest.raises(KeyError, match="a mistake"):
        delivery.wait()


def test_a_state_that_could_not_be_copied_is_no_state(tmp_path):
    def tensors():
        yield "weight", torch.zeros(4)
        raise MemoryError

    kept = checkpoints(str(tmp_path))
    with pytest.raises(MemoryError):
        kept.save(1, tensors(), {"step": 1})
    assert kept.settle() == 0 and kept._steps() == []
